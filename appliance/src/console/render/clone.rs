//! A clone that was made.

use super::record::Record;
use crate::api::host::{CloneDetail, CopiedBy};

/// What was made, for a person.
pub(super) fn text(clone: &CloneDetail) -> String {
    let CloneDetail { name, source, datastore, .. } = clone;
    let by = match clone.copied_by {
        Some(CopiedBy::Server) => " by the server, which sent nothing of it here",
        Some(CopiedBy::Kernel) => " by this host's kernel",
        Some(CopiedBy::ThisHost) => " through this host",
        None => "",
    };
    // The kind says which version of NFS.
    let knows_copies = !matches!(clone.kind.as_str(), "nfs 3" | "nfs 4.1");
    let why = match clone.copied_by {
        Some(CopiedBy::ThisHost) if knows_copies => Some("the server does not copy by itself".to_owned()),
        Some(CopiedBy::ThisHost) => {
            let key = format!("datastore.{datastore}.version = \"4.2\"");
            Some(format!("{} knows no copies on the server; with {key} one that can makes them", clone.kind))
        }
        _ => None,
    };
    let files = clone.files.iter().map(|file| match file.copied {
        Some(_) => format!("{}, {}", file.file, file.size),
        None => format!("{}, which {source} uses too", file.file),
    });
    Record::default()
        .line("name", format!("{name}, a clone of {source}"))
        .line("datastore", datastore)
        .each("file", files)
        .line("copied", format!("{}{by}", clone.copied))
        .some("", why)
        .line("holes", clone.holes)
        .line("took", format!("{}.{:03} s", clone.ms / 1000, clone.ms % 1000))
        .some("lease", clone.taken_from.as_ref().map(|taken| format!("{source} was {taken}")))
        .line("next", format!("vm start {name}"))
        .to_string()
}

#[cfg(test)]
mod tests {
    use model::units::Bytes;

    use super::*;
    use crate::api::host::{ClonedFile, HostAnswer};
    use crate::console::render;

    fn clone() -> CloneDetail {
        let file = |file: &str, copied| ClonedFile { file: file.to_owned(), size: Bytes::mib(40), copied };
        CloneDetail {
            name: "copy".parse().expect("valid"),
            source: "web".parse().expect("valid"),
            datastore: "lab".parse().expect("valid"),
            kind: "nfs 4.2".to_owned(),
            files: vec![file("root.img", Some(Bytes::mib(3))), file("shared.iso", None)],
            copied: Bytes::mib(3),
            holes: Bytes::mib(37),
            copied_by: Some(CopiedBy::Server),
            ms: 1_234,
            taken_from: None,
        }
    }

    #[test]
    fn a_person_reads_what_was_made_of_what_and_who_copied_and_what_to_type_next() {
        assert_eq!(
            text(&clone()),
            "name       copy, a clone of web\n\
             datastore  lab\n\
             file       root.img, 40 MiB\n           \
             shared.iso, which web uses too\n\
             copied     3 MiB by the server, which sent nothing of it here\n\
             holes      37 MiB\n\
             took       1.234 s\n\
             next       vm start copy"
        );
        let taken_from = Some("taken from host-b: its host lease had expired".to_owned());
        assert!(text(&CloneDetail { taken_from, ..clone() }).contains("web was taken from host-b"));
        let carried = |kind: &str| {
            let (copied_by, kind) = (Some(CopiedBy::ThisHost), kind.to_owned());
            text(&CloneDetail { copied_by, kind, ..clone() })
        };
        let told = "copied     3 MiB through this host\n           ";
        assert!(carried("nfs 4.2").contains(&format!("{told}the server does not copy by itself\n")));
        assert!(
            carried("nfs 4.1")
                .contains(&format!("{told}nfs 4.1 knows no copies on the server; with datastore.lab.version"))
        );
    }

    #[test]
    fn a_program_reads_bytes_and_who_copied_and_which_files_are_shared() {
        let json = render::json(&HostAnswer::Cloned(Box::new(clone())));
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert!(value["copied"] == 3 << 20 && value["holes"] == 37 << 20 && value["copied_by"] == "server", "{json}");
        assert!(value["files"][0]["copied"] == 3 << 20 && value["files"][1]["copied"].is_null(), "{json}");
    }
}
