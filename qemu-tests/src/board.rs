//! What sits in a slot: something with power, a cable to the backplane, and a root shell. One kind is emulated by
//! QEMU, the other is made of the host's namespaces; scenarios need not know which.

use crate::backplane::{Counters, Weather};
use crate::control::Output;
use crate::module::{Link, Power};
use crate::{Limit, Provision, SimError};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

/// See [`crate::Module`], whose methods of the same names these are.
pub(crate) trait Board: Debug + Send + Sync {
    fn set_identity(&self, identity: Provision);
    /// Namespaces have no bus: nothing is in their slots anyhow.
    fn take_out(&self, _accelerators: BTreeSet<u32>) {}
    fn power_on(&self) -> Result<(), SimError>;
    fn power_off(&self) -> Result<(), SimError>;
    fn status(&self) -> Power;
    fn isolate(&self) -> Result<(), SimError>;
    fn unplug(&self) -> Result<(), SimError>;
    fn rejoin(&self) -> Result<(), SimError>;
    fn set_weather(&self, weather: Weather) -> Result<(), SimError>;
    fn link(&self) -> Link;
    fn counters(&self) -> Counters;
    fn freeze(&self) -> Result<(), SimError>;
    fn thaw(&self) -> Result<(), SimError>;
    fn exec(&self, command: &str, limit: Limit) -> Result<Output, SimError>;
    fn wait_ready(&self, limit: Limit) -> Result<Duration, SimError>;
    /// Where the module sees its cgroup v2 tree.
    fn cgroup(&self) -> &str;
    /// Power off for good, and nothing of use to nobody left behind.
    fn retire(&self);
}
