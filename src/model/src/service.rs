use crate::{InstanceId, Name, Protocol, SpecError};
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr, str::FromStr};

/// An IPv4 subnet: `10.46.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: Ipv4Addr,
    length: u8,
}

impl Subnet {
    /// Where services get their addresses when nobody says otherwise.
    pub const SERVICES: Self = Self { base: Ipv4Addr::new(10, 46, 0, 0), length: 16 };

    /// Its first address, which nobody has.
    pub fn base(self) -> Ipv4Addr {
        self.base
    }

    /// How many bits its addresses share.
    pub fn length(self) -> u8 {
        self.length
    }

    /// How many addresses it has without the first and the last; 0 for a subnet of one or two.
    pub fn hosts(self) -> u32 {
        u32::MAX.checked_shr(self.length.into()).unwrap_or(0).saturating_sub(1)
    }

    /// The address with this number, counted from 1, as long as it is one of [`Subnet::hosts`].
    pub fn host(self, number: u32) -> Option<Ipv4Addr> {
        (1..=self.hosts()).contains(&number).then(|| Ipv4Addr::from(u32::from(self.base) + number))
    }

    /// The number of an address: the opposite of [`Subnet::host`].
    pub fn number(self, address: Ipv4Addr) -> Option<u32> {
        let number = u32::from(address).checked_sub(u32::from(self.base))?;
        (1..=self.hosts()).contains(&number).then_some(number)
    }

    /// Whether an address is one of its.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(self.length.into())).unwrap_or(0);
        u32::from(address) & mask == u32::from(self.base)
    }

    /// The address of the bridge in a module's subnet: the first that a host can have.
    pub fn gateway(self) -> Option<Ipv4Addr> {
        self.host(1)
    }
}

impl FromStr for Subnet {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::value("subnet", text, "is no IPv4 subnet; write it as 10.46.0.0/16");
        let (base, length) = text.split_once('/').ok_or_else(bad)?;
        let (base, length): (Ipv4Addr, u8) =
            (base.parse().map_err(|_| bad())?, length.parse().map_err(|_| bad())?);
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
        if length > 32 || u32::from(base) & !mask != 0 {
            return Err(bad());
        }
        Ok(Self { base, length })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.base, self.length))
    }
}

impl TryFrom<String> for Subnet {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// Which endpoint a new connection to a service gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Clients of one address always get the same one, through whichever module they come.
    Source,
    /// The one with the fewest open connections, as every module counts its own a few times a second.
    LeastConnections,
}

/// How an app's service behaves: `[service]` of an app file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceSpec {
    /// Which endpoint a new connection gets.
    pub policy: Policy,
}

/// Where connections to a service may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Whose it is.
    pub instance: InstanceId,
    /// Where it is.
    pub module: Name,
    /// Its address in its module's subnet.
    pub address: Ipv4Addr,
    /// The port inside the container.
    pub port: u16,
    /// Only connections that it has already; new ones go elsewhere.
    pub draining: bool,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// At the service's address.
    pub port: u16,
    /// What is spoken at it, and at its endpoints.
    #[serde(default, skip_serializing_if = "Protocol::is_tcp")]
    pub protocol: Protocol,
    /// At every module's own address.
    pub published: Option<u16>,
    /// Where it leads, by instance.
    pub endpoints: Vec<Endpoint>,
}

/// One app's virtual address and where it leads now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The app, which is its name too: `APP.space`.
    pub app: Name,
    /// Its address: the same as long as the app has a service.
    pub address: Ipv4Addr,
    /// Which endpoint a new connection gets.
    pub policy: Policy,
    /// In the order of the app file.
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Whether the number of connections says where new ones go.
    pub fn is_counted(&self) -> bool {
        self.policy == Policy::LeastConnections
    }
}

/// An instance that has kept its address on a module whose subnet that is not part of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Roaming {
    /// The address.
    pub address: Ipv4Addr,
    /// The address on the backplane of the module that it is on.
    pub via: Ipv4Addr,
}

/// All services, as every module is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTable {
    /// All their addresses are in here; the modules send what has no endpoint back at once.
    pub range: Subnet,
    /// By name.
    pub services: Vec<Service>,
    /// By address: what is not where the modules' subnets say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roaming: Vec<Roaming>,
}

impl Default for ServiceTable {
    fn default() -> Self {
        Self { range: Subnet::SERVICES, services: Vec::new(), roaming: Vec::new() }
    }
}

impl ServiceTable {
    /// Whether somebody must count connections for it: there is a choice in a service by least connections.
    pub fn is_counted(&self) -> bool {
        let choice = |p: &ServicePort| p.endpoints.iter().filter(|e| !e.draining).nth(1).is_some();
        self.services.iter().any(|s| s.is_counted() && s.ports.iter().any(choice))
    }

    /// Every port of every service.
    pub fn ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.services.iter().flat_map(|s| &s.ports)
    }

    /// Every endpoint of every port.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.ports().flat_map(|p| &p.endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_count_their_addresses() {
        let subnet: Subnet = "10.46.0.0/16".parse().unwrap();
        assert_eq!(subnet, Subnet::SERVICES);
        assert_eq!(subnet.hosts(), 65_534);
        assert_eq!(subnet.host(1).unwrap().to_string(), "10.46.0.1");
        assert_eq!(subnet.host(65_534).unwrap().to_string(), "10.46.255.254");
        assert_eq!(subnet.host(65_535), None);
        assert_eq!(subnet.host(0), None);
        assert_eq!(subnet.number("10.46.1.0".parse().unwrap()), Some(256));
        assert_eq!(subnet.number("10.47.0.1".parse().unwrap()), None);
        assert!(subnet.contains("10.46.255.255".parse().unwrap()));
        assert!(!subnet.contains("10.47.0.0".parse().unwrap()));
        let whole: Subnet = "0.0.0.0/0".parse().unwrap();
        assert_eq!(whole.hosts(), u32::MAX - 1);
        assert!(whole.contains("1.2.3.4".parse().unwrap()));
        assert_eq!("10.0.0.1/32".parse::<Subnet>().unwrap().hosts(), 0);
        for bad in ["", "10.46.0.0", "10.46.0.1/16", "10.46.0.0/33", "a/8"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad} was taken");
        }
    }
}
