//! A port that can be switched off.

use std::{net::SocketAddr, str::FromStr};

use serde::{Deserialize, Deserializer, de};

/// Where a port is, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Off,
    At(SocketAddr),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an address with its port, such as 127.0.0.1:8002, or off")]
pub struct PortError;

impl Port {
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| PortError),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
