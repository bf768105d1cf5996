//! How far a move is, in words, as its source tells it.

use protocol::convergence::Prediction;
use protocol::source::Progress;

use crate::api::migrate::{MigrationId, MigrationProgress};

/// Most vCPUs that are told by their numbers.
const NAMED_VCPUS: usize = 4;

/// Progress as people see it.
pub fn shown(id: MigrationId, progress: &Progress) -> MigrationProgress {
    let mut doing = match progress.round {
        0 => progress.phase.to_string(),
        round => format!("{} round {round}", progress.phase),
    };
    // First, because a narrow terminal shows the beginning of the line.
    if let Some(note) = &progress.note {
        doing = format!("{doing}: {note}");
    }
    if let Some(prediction) = &progress.prediction {
        doing = format!("{doing}, {}", expected(prediction));
    }
    let thousandths = (progress.pages > 0).then(|| progress.pages_sent * 1000 / progress.pages);
    let thousandths = thousandths.and_then(|value| u16::try_from(value).ok());
    MigrationProgress { id, phase: Some(progress.phase), doing, thousandths }
}

/// Which vCPUs are slowed, of how many; `None` if none is. `slowed` has the percent of each.
pub fn slowed_vcpus(slowed: &[u8]) -> Option<String> {
    let (of, which) = (slowed.len(), (0..slowed.len()).filter(|vcpu| slowed[*vcpu] > 0).collect::<Vec<_>>());
    match which.as_slice() {
        [] => None,
        all if all.len() == of => Some(format!("all {of} vCPUs")),
        [one] => Some(format!("vCPU {one} of {of}")),
        some if some.len() <= NAMED_VCPUS => {
            let numbers: Vec<_> = some.iter().map(ToString::to_string).collect();
            Some(format!("vCPUs {} of {of}", numbers.join(", ")))
        }
        many => Some(format!("{} of {of} vCPUs", many.len())),
    }
}

/// What is to be expected of the rest.
fn expected(prediction: &Prediction) -> String {
    let megabytes = prediction.bandwidth_bytes_per_s as f64 / 1e6;
    let left = match prediction.left_us {
        Some(left) => format!("~{} s left", left.div_ceil(1_000_000)),
        None => "the guest dirties faster".to_owned(),
    };
    format!("{megabytes:.1} MB/s, {left}, stun ~{} ms", prediction.stun_us.div_ceil(1_000))
}

#[cfg(test)]
mod tests {
    use protocol::session::PhaseName;

    use super::*;

    fn told(left_us: Option<u64>, note: Option<&str>) -> MigrationProgress {
        let prediction =
            Prediction { stun_us: 119_001, left_us, bandwidth_bytes_per_s: 95_440_000, dirty_pages_per_s: 5 };
        let progress = Progress {
            phase: PhaseName::PreCopy,
            round: 2,
            pages_sent: 1,
            pages: 4,
            prediction: Some(prediction),
            note: note.map(str::to_owned),
        };
        shown(1, &progress)
    }

    #[test]
    fn which_vcpus_are_slowed_is_told_by_their_numbers_as_long_as_they_are_few() {
        assert_eq!(slowed_vcpus(&[0, 0]), None);
        assert_eq!(slowed_vcpus(&[0, 60]).as_deref(), Some("vCPU 1 of 2"));
        assert_eq!(slowed_vcpus(&[60, 0, 60, 0]).as_deref(), Some("vCPUs 0, 2 of 4"));
        assert_eq!(slowed_vcpus(&[60, 60]).as_deref(), Some("all 2 vCPUs"));
        assert_eq!(slowed_vcpus(&[&[60; 5][..], &[0; 3]].concat()).as_deref(), Some("5 of 8 vCPUs"));
    }

    #[test]
    fn a_move_under_way_tells_how_fast_it_is_and_what_is_to_be_expected_of_it() {
        let calm = told(Some(11_000_001), None);
        assert_eq!(calm.doing, "pre-copy round 2, 95.4 MB/s, ~12 s left, stun ~120 ms");
        assert_eq!(calm.thousandths, Some(250));
        assert!(told(None, None).doing.contains("dirties faster"));
        let noted = told(Some(1), Some("waiting")).doing;
        assert_eq!(noted, "pre-copy round 2: waiting, 95.4 MB/s, ~1 s left, stun ~120 ms");
    }
}
