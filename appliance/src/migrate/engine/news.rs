//! What happens to the migration NIC by itself, told to whoever sits at this host's console.

use model::diagnosis::Reason;
use netstack::nic::LinkState;
use netstack::nic::selector::format_mac;
use netstack::{Conflict, Nic, Stack};

use super::turn::Engine;
use crate::api::migrate::FromMigrate;

impl Engine {
    /// Another NIC uses our address, or none does any more.
    pub(super) fn address_conflict(&mut self, conflict: Option<Conflict>) {
        match conflict {
            Some(conflict) => self.tell_news(true, in_conflict(&conflict).cause),
            None => self.tell_news(false, "nobody else uses the address of the migration NIC any more".to_owned()),
        }
    }

    /// The link went up or down, or is of another speed.
    pub(super) fn link_changed(&mut self, link: LinkState) {
        let Some(stack) = self.stack.as_ref().filter(|stack| !stack.is_gone()) else { return };
        let name = stack.nic_name().to_owned();
        match (self.link_told, link.up) {
            (true, false) => self.tell_news(true, format!("the link of migration NIC {name} went down")),
            (false, true) => self.tell_news(false, format!("the link of migration NIC {name} is up again")),
            _ => {}
        }
        self.link_told = link.up;
    }

    pub(super) fn tell_news(&mut self, warning: bool, text: String) {
        let level = if warning { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "{text}");
        self.host.tell(FromMigrate::News { warning, text });
    }
}

/// What a person should know of a NIC over which VMs can be moved all the same.
pub(super) fn warnings(stack: &Stack<Nic>) -> Vec<Reason> {
    let link = (!stack.link().up && !stack.is_gone()).then(|| {
        let cause = format!("the link of migration NIC {} is down", stack.nic_name());
        Reason::new(cause, "look at its cable, and at the switch where that ends")
    });
    link.into_iter().chain(stack.conflict().as_ref().map(in_conflict)).collect()
}

fn in_conflict(Conflict { address, mac }: &Conflict) -> Reason {
    let mac = format_mac(*mac);
    let cause = format!("the address {address} of the migration NIC is also used by the NIC {mac}");
    Reason::new(cause, "network migration-nic on each host shows whose that is; give one of the two another address")
}
