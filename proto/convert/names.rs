//! Names with a number on the wire. A number without a name is refused by saying which names there are.

use super::Refused;
use crate::record::{ActionState, CleanupMode, FindingState, ObjectOutcome, Severity, Stream};
use crate::wire;

/// Both ways of an enum whose wire form has an `Unspecified` that the domain lacks, and a function for its number.
macro_rules! named {
    ($(#[$doc:meta])* $function:ident, $domain:ident { $($variant:ident),+ }, $names:literal) => {
        impl From<$domain> for wire::$domain {
            fn from(value: $domain) -> Self {
                match value {
                    $($domain::$variant => Self::$variant,)+
                }
            }
        }

        impl TryFrom<wire::$domain> for $domain {
            type Error = Refused;
            fn try_from(value: wire::$domain) -> Result<Self, Refused> {
                $function("", value.into())
            }
        }

        $(#[$doc])*
        pub fn $function(field: &str, value: i32) -> Result<$domain, Refused> {
            match wire::$domain::try_from(value) {
                $(Ok(wire::$domain::$variant) => Ok($domain::$variant),)+
                Ok(wire::$domain::Unspecified) => {
                    Err(Refused::new(field, concat!("is unspecified, must be ", $names)))
                }
                Err(_) => {
                    Err(Refused::new(field, format!(concat!("{} is unknown, must be ", $names), value)))
                }
            }
        }
    };
}

named!(
    /// A stream's number at `field`.
    stream, Stream { Urgent, Evidence, Recorder }, "urgent, evidence or recorder");
named!(
    /// A severity's number at `field`.
    severity, Severity { Info, Low, Medium, High, Critical }, "info, low, medium, high or critical");
named!(
    /// A finding state's number at `field`.
    finding_state, FindingState { Raised, Updated, Cleared }, "raised, updated or cleared");
named!(
    /// An action state's number at `field`.
    action_state, ActionState { Planned, Started, Done, Failed, Refused },
    "planned, started, done, failed or refused");
named!(
    /// A cleanup mode's number at `field`.
    cleanup_mode, CleanupMode { Off, Plan, Auto }, "off, plan or auto");

impl From<ObjectOutcome> for wire::ObjectOutcome {
    fn from(value: ObjectOutcome) -> Self {
        match value {
            ObjectOutcome::Pending => Self::Unspecified,
            ObjectOutcome::Removed => Self::Removed,
            ObjectOutcome::Skipped => Self::Skipped,
            ObjectOutcome::Failed => Self::Failed,
            ObjectOutcome::Cut => Self::Cut,
        }
    }
}

impl From<wire::ObjectOutcome> for ObjectOutcome {
    fn from(value: wire::ObjectOutcome) -> Self {
        match value {
            wire::ObjectOutcome::Unspecified => Self::Pending,
            wire::ObjectOutcome::Removed => Self::Removed,
            wire::ObjectOutcome::Skipped => Self::Skipped,
            wire::ObjectOutcome::Failed => Self::Failed,
            wire::ObjectOutcome::Cut => Self::Cut,
        }
    }
}

/// An object outcome's number at `field`; 0 stands for one that was not tried yet.
pub fn object_outcome(field: &str, value: i32) -> Result<ObjectOutcome, Refused> {
    wire::ObjectOutcome::try_from(value).map(Into::into).map_err(|_| {
        Refused::new(field, format!("{value} is unknown, must be pending, removed, skipped, failed or cut"))
    })
}
