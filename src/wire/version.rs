//! The protocol version and what a peer may require.

/// The protocol version that this program speaks.
pub const VERSION: u32 = 1;

/// Feature numbers that this program understands when a peer requires them. None exist yet.
const FEATURES: &[u32] = &[];

/// The peer speaks, or requires, something that this program does not know. [SES-12]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The peer's version is none that exists.
    #[error(
        "the peer speaks protocol version {theirs}, this program speaks {VERSION}: bring the older one up to date"
    )]
    Version {
        /// What the peer said.
        theirs: u32,
    },
    /// The peer requires a feature that is not known here.
    #[error(
        "the peer (protocol version {theirs}) requires feature {feature}, which this program (protocol version \
         {VERSION}) does not know: bring it up to date"
    )]
    Feature {
        /// What the peer said of its version.
        theirs: u32,
        /// The first unknown number.
        feature: u32,
    },
}

/// Judges the first two fields of every first message: a newer version is fine as long as nothing unknown is
/// required. [SES-11] [SES-12]
pub fn check_version(version: u32, requires: &[u32]) -> Result<(), Unsupported> {
    if version < VERSION {
        return Err(Unsupported::Version { theirs: version });
    }
    match requires.iter().find(|feature| !FEATURES.contains(feature)) {
        Some(&feature) => Err(Unsupported::Feature { theirs: version, feature }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h22_a_newer_version_is_fine_and_an_unknown_requirement_is_not() {
        assert_eq!(check_version(1, &[]), Ok(()));
        assert_eq!(check_version(7, &[]), Ok(()));
        assert_eq!(check_version(0, &[]), Err(Unsupported::Version { theirs: 0 }));
        let refused = check_version(2, &[9]).expect_err("an unknown feature");
        assert_eq!(refused, Unsupported::Feature { theirs: 2, feature: 9 });
        let text = refused.to_string();
        assert!(
            text.contains("version 2") && text.contains("version 1"),
            "names both versions: {text}"
        );
    }
}
