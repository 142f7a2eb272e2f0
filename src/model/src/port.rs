use crate::SpecError;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// What is spoken at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams; those between the same two ports are a flow, which is treated as a connection is.
    Udp,
}

impl Protocol {
    /// Whether it is what a port has that does not say.
    pub fn is_tcp(&self) -> bool {
        *self == Self::Tcp
    }

    /// As it is written: `tcp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port that the app listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The port inside the container.
    pub container: u16,
    /// What is spoken at it. Records of versions that knew only TCP have none.
    #[serde(default, skip_serializing_if = "Protocol::is_tcp")]
    pub protocol: Protocol,
    /// Published on the address of the instance's module, at this port; with `service`, on every module's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<u16>,
    /// Port of the app's stable virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<u16>,
}

impl Port {
    /// Where it is published.
    pub fn host_id(&self) -> Option<PortId> {
        self.host.map(|number| PortId { number, protocol: self.protocol })
    }

    /// Where it is at the virtual address.
    pub fn service_id(&self) -> Option<PortId> {
        self.service.map(|number| PortId { number, protocol: self.protocol })
    }
}

/// A port of some address: `8080`, or `53/udp`. TCP and UDP have each their own of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId {
    /// 1 to 65535.
    pub number: u16,
    /// Whose.
    pub protocol: Protocol,
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => f.pad(&self.number.to_string()),
            Protocol::Udp => f.pad(&format!("{}/udp", self.number)),
        }
    }
}

impl FromStr for PortId {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (number, protocol) = match text.strip_suffix("/udp") {
            Some(number) => (number, Protocol::Udp),
            None => (text, Protocol::Tcp),
        };
        let number = number
            .parse()
            .map_err(|_| SpecError::value("port", text, "is no port; write it as 8080, or as 53/udp"))?;
        Ok(Self { number, protocol })
    }
}

/// Those of one app.
pub(crate) fn check_ports(ports: &[Port]) -> Result<(), SpecError> {
    let (mut hosts, mut services) = (BTreeSet::new(), BTreeSet::new());
    for port in ports {
        if port.container == 0 || port.host == Some(0) || port.service == Some(0) {
            return Err(SpecError::value("ports", 0, "is no port; use 1 to 65535"));
        }
        for (key, id, seen) in
            [("ports.host", port.host_id(), &mut hosts), ("ports.service", port.service_id(), &mut services)]
        {
            if let Some(id) = id.filter(|id| !seen.insert(*id)) {
                return Err(SpecError::value(key, id, "is used twice in this app"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_two_protocols_are_two() {
        for text in ["8080", "53/udp"] {
            assert_eq!(text.parse::<PortId>().unwrap().to_string(), text);
        }
        for bad in ["", "udp", "70000", "53/tcp", "53/sctp"] {
            assert!(bad.parse::<PortId>().is_err(), "{bad} was taken");
        }
        let port = |protocol, host| Port { container: 53, protocol, host, service: Some(53) };
        let (tcp, udp) = (port(Protocol::Tcp, Some(53)), port(Protocol::Udp, Some(53)));
        assert!(check_ports(&[tcp, udp]).is_ok());
        let message = check_ports(&[udp, udp]).unwrap_err().to_string();
        assert!(message.contains("ports.host") && message.contains("53/udp"), "{message}");
        let message = check_ports(&[tcp, port(Protocol::Tcp, None)]).unwrap_err().to_string();
        assert!(message.contains("ports.service"), "{message}");
    }

    /// Records of versions without a protocol are read, and what has none new is written as they read it.
    #[test]
    fn a_port_without_a_protocol_is_tcp() {
        let old = r#"{"container":8080,"service":80}"#;
        let port: Port = serde_json::from_str(old).unwrap();
        assert_eq!(port.protocol, Protocol::Tcp);
        assert_eq!(serde_json::to_string(&port).unwrap(), old);
        let udp = r#"{"container":53,"protocol":"udp","host":53}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Port>(udp).unwrap()).unwrap(), udp);
    }
}
