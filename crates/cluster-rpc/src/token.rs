//! The secret the processes of one cluster share.

use std::fmt;
use std::sync::Arc;

use tonic::Status;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

const HEADER: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// A shared secret, sent with every stream as `authorization: Bearer <token>`. Never shown.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// `None` if empty or with bytes other than visible ASCII.
    #[must_use]
    pub fn new(secret: &str) -> Option<Self> {
        let valid = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then(|| Self(secret.into()))
    }

    pub(crate) fn attach(&self, metadata: &mut MetadataMap) {
        let mut value: MetadataValue<Ascii> =
            format!("{SCHEME}{}", self.0).parse().expect("visible ASCII is a valid header value");
        value.set_sensitive(true);
        metadata.insert(HEADER, value);
    }

    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let presented = metadata
            .get(HEADER)
            .and_then(|value| value.as_bytes().strip_prefix(SCHEME.as_bytes()))
            .unwrap_or_default();
        if same(self.0.as_bytes(), presented) {
            Ok(())
        } else {
            Err(Status::unauthenticated("the cluster token is missing or wrong"))
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Compares without telling by its duration where the first difference is.
fn same(expected: &[u8], presented: &[u8]) -> bool {
    let differences = expected
        .iter()
        .zip(presented)
        .fold(0_u8, |sum, (left, right)| std::hint::black_box(sum | (left ^ right)));
    expected.len() == presented.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_accepted() {
        let token = Token::new("secret").unwrap();
        for (presented, accepted) in [
            (Some("Bearer secret"), true),
            (Some("Bearer secre"), false),
            (Some("Bearer secrets"), false),
            (Some("Bearer secreT"), false),
            (Some("secret"), false),
            (Some("Bearer "), false),
            (None, false),
        ] {
            let mut metadata = MetadataMap::new();
            if let Some(value) = presented {
                metadata.insert(HEADER, value.parse().unwrap());
            }
            assert_eq!(token.check(&metadata).is_ok(), accepted, "{presented:?}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", Token::new("secret").unwrap()), "Token(..)");
    }

    #[test]
    fn what_no_header_can_carry_is_no_token() {
        assert!(Token::new("").is_none());
        assert!(Token::new("a b").is_none());
        assert!(Token::new("a\nb").is_none());
    }
}
