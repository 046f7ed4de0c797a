//! The ports of a rule: `*`, `80`, `80,443`, `8000-8100`, or several of these.

use std::fmt;
use std::str::FromStr;

/// A set of ports, kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ports(Vec<Range>);

/// First and last port, both included; the whole range is written `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Range {
    first: u16,
    last: u16,
}

/// Why a text is not a set of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePortsError {
    /// A part is neither a port nor a range.
    #[error("{0:?} is not a port: write *, 80, 80,443 or 8000-8100, with ports from 1 to 65535")]
    Port(String),
    /// A range that ends before it begins.
    #[error("the range {0:?} ends before it begins")]
    Backwards(String),
    /// More parts than a rule may have.
    #[error("a rule has at most {MAX_RANGES} ports and ranges, this one has {0}")]
    TooMany(usize),
}

impl Ports {
    /// Every port.
    pub fn any() -> Self {
        Self(vec![ANY])
    }

    /// Whether `port` is among them; port 0 never is.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| (range.first..=range.last).contains(&port))
    }
}

impl FromStr for Ports {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, ParsePortsError> {
        let count = text.split(',').count();
        if count > MAX_RANGES {
            return Err(ParsePortsError::TooMany(count));
        }
        text.split(',').map(parse_range).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_range(text: &str) -> Result<Range, ParsePortsError> {
    if text == "*" {
        return Ok(ANY);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = Range { first: parse_port(first, text)?, last: parse_port(last, text)? };
    if range.last < range.first {
        return Err(ParsePortsError::Backwards(text.to_owned()));
    }
    Ok(range)
}

fn parse_port(text: &str, whole: &str) -> Result<u16, ParsePortsError> {
    text.parse::<u16>()
        .ok()
        // The standard parser takes "+80".
        .filter(|port| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| ParsePortsError::Port(whole.to_owned()))
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match *range {
                ANY => write!(f, "{comma}*")?,
                Range { first, last } if first == last => write!(f, "{comma}{first}")?,
                Range { first, last } => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

const ANY: Range = Range { first: 1, last: u16::MAX };

/// A rule is read at every stream that is opened: a bound keeps that cheap. Nobody writes so many by hand.
const MAX_RANGES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_back_and_match() {
        for (text, inside, outside) in [
            ("*", vec![1, 80, 65535], vec![0]),
            ("80", vec![80], vec![0, 79, 81]),
            ("80,443", vec![80, 443], vec![81, 442]),
            ("8000-8100", vec![8000, 8050, 8100], vec![7999, 8101]),
            ("22,8000-8100,9", vec![22, 8000, 9], vec![0, 10]),
        ] {
            let ports: Ports = text.parse().expect(text);
            assert_eq!(ports.to_string(), text);
            assert!(inside.iter().all(|port| ports.contains(*port)), "{text}");
            assert!(!outside.iter().any(|port| ports.contains(*port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in ["", "0", "65536", "+80", "80,", ",80", "80-", "-80", "90-80", "80 ", "http"] {
            assert!(text.parse::<Ports>().is_err(), "{text:?}");
        }
        assert_eq!("90-80".parse::<Ports>(), Err(ParsePortsError::Backwards("90-80".into())));
        assert_eq!(vec!["1"; 65].join(",").parse::<Ports>(), Err(ParsePortsError::TooMany(65)));
    }
}
