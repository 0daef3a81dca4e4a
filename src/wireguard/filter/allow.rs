//! What may pass, as the configuration says it: `tcp/9094`, `udp/9000-9100`, `icmp`, `all`.
//!
//! Plain data: made by `config`, carried by a `Change`, asked by the filter, shown by `status`.

use std::fmt;

/// One thing that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Whatever it is.
    All,
    /// Echo requests and replies. Errors about what may pass do so without it.
    Icmp,
    /// TCP connections to these ports.
    Tcp(PortRange),
    /// UDP datagrams to these ports, and their answers.
    Udp(PortRange),
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `None` if it would be empty.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::All => f.write_str("all"),
            Rule::Icmp => f.write_str("icmp"),
            Rule::Tcp(ports) => write!(f, "tcp/{ports}"),
            Rule::Udp(ports) => write!(f, "udp/{ports}"),
        }
    }
}

/// All that may pass; without a rule that is nothing but errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow(Box<[Rule]>);

impl Allow {
    /// Lets pass what one of the rules names.
    pub fn new(rules: Vec<Rule>) -> Self {
        // One comparison finds it then, before a packet is looked at.
        let all = rules.contains(&Rule::All);
        Self(if all { Box::new([Rule::All]) } else { rules.into() })
    }

    /// The rules, in the order in which they were given.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Whether TCP connections to this port may be opened.
    pub fn tcp(&self, port: u16) -> bool {
        self.0.iter().any(|rule| match rule {
            Rule::Tcp(ports) => ports.contains(port),
            rule => *rule == Rule::All,
        })
    }

    /// Whether UDP datagrams to this port may pass.
    pub fn udp(&self, port: u16) -> bool {
        self.0.iter().any(|rule| match rule {
            Rule::Udp(ports) => ports.contains(port),
            rule => *rule == Rule::All,
        })
    }

    pub(super) fn icmp(&self) -> bool {
        self.0.iter().any(|rule| matches!(rule, Rule::Icmp | Rule::All))
    }

    pub(super) fn is_everything(&self) -> bool {
        self.0.first() == Some(&Rule::All)
    }
}

impl fmt::Display for Allow {
    /// The rules, parted by blanks, or "nothing".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (index, rule) in self.0.iter().enumerate() {
            write!(f, "{}{rule}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
