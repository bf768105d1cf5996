//! The line between a control plane and its migration engine, on which a test puts other words in the place of what the control plane says.

use std::path::Path;
use std::sync::Arc;

use godwit::api::channel::{Channel, Listener};
use godwit::api::migrate::{FromMigrate, ToMigrate};
use rustix::fd::AsFd;

use super::Host;

/// Goes between a host, whose control plane is restarted, and its engine; `says` changes what is said to the engine from then on.
pub(crate) fn cut_into(host: &mut Host, says: impl Fn(&mut ToMigrate) + Send + Sync + 'static) {
    let (socket, role) = (host.run.join("migrate.sock"), host.run.join("migrate-role.sock"));
    std::fs::rename(&socket, &role).expect("the role's own socket is moved aside");
    let listener = Listener::bind(&socket).expect("the line listens in its place");
    let says = Arc::new(says);
    // Ends with the process of the test.
    std::thread::spawn(move || {
        while let Ok(channel) = listener.accept::<FromMigrate, ToMigrate>() {
            let (says, role) = (Arc::clone(&says), role.clone());
            std::thread::spawn(move || carry(&Arc::new(channel), &*says, &role));
        }
    });
    host.restart_control_plane();
}

fn carry(host: &Arc<Channel<FromMigrate, ToMigrate>>, says: &impl Fn(&mut ToMigrate), role: &Path) {
    let Ok(engine) = Channel::<ToMigrate, FromMigrate>::connect(role) else { return };
    let (engine, back) = (Arc::new(engine), Arc::clone(host));
    let answers = Arc::clone(&engine);
    std::thread::spawn(move || {
        while let Ok((answer, _)) = answers.receive() {
            if back.send(&answer, &[]).is_err() {
                break;
            }
        }
        back.shut();
    });
    while let Ok((mut word, beside)) = host.receive() {
        says(&mut word);
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        if engine.send(&word, &beside).is_err() {
            break;
        }
    }
    engine.shut();
}
