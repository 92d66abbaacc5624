//! What a service answered, in one sentence: its status and its own code and words, without XML and without addresses, which hold signatures.
//!
//! The library hands over text only, so text is read here. Pure.

use std::error::Error;
use std::io;

/// Longest sentence of a service that is repeated, in characters.
const WORDS_MAX: usize = 160;

/// A failed call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status of HTTP, if there was an answer at all.
    status: Option<u16>,
    /// For people.
    pub(super) text: String,
}

impl Answer {
    /// Reads an error with all its causes.
    pub(super) fn of(error: &dyn Error) -> Self {
        let whole = error.to_string();
        let status = after(&whole, "status code: ").and_then(|rest| rest.get(..3)?.parse().ok());
        Self::said(status, &whole, || plain(&deepest(error)))
    }

    /// Reads what a service said; `otherwise` is told if there was no answer.
    pub(super) fn said(status: Option<u16>, whole: &str, otherwise: impl FnOnce() -> String) -> Self {
        let code = element(whole, "Code").filter(|code| code.len() <= WORDS_MAX && code.chars().all(|c| c.is_ascii_alphanumeric()));
        let words = element(whole, "Message").map(plain).filter(|words| !words.is_empty());
        let detail = match (code, words) {
            (Some(code), Some(words)) => format!(" {code}: {words}"),
            (Some(code), None) => format!(" {code}"),
            (None, _) => String::new(),
        };
        let text = match status {
            Some(status) => format!("the service answered {status}{detail}"),
            None if !detail.is_empty() => format!("the service answered{detail}"),
            None => otherwise(),
        };
        Self { status, text }
    }

    /// What can be done about it, as a kind of error: trying again helps if it is `Other`, not if the service finds fault with the request, and
    /// `InvalidData` is what it finds fault with whatever is asked for. The library's own kinds do not tell: a listing that was refused is "generic" there.
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self.status {
            Some(401 | 403) => io::ErrorKind::PermissionDenied,
            // Time-out, conflict of two writers, too early, too many requests.
            Some(408 | 409 | 425 | 429) | None => io::ErrorKind::Other,
            Some(400) => io::ErrorKind::InvalidData,
            Some(402..=499) => io::ErrorKind::InvalidInput,
            Some(_) => io::ErrorKind::Other,
        }
    }
}

/// The cause behind all others: those above it name the address that was asked.
fn deepest(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The first line of a text without markup and addresses.
fn plain(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.split('<').next().unwrap_or_default();
    let words: Vec<_> = line.split_whitespace().map(|word| if word.contains("://") { "…" } else { word }).collect();
    words.join(" ").chars().take(WORDS_MAX).collect::<String>().trim_end_matches('.').to_owned()
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    Some(text.split_once(mark)?.1)
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = after(text, &format!("<{name}>"))?;
    Some(rest.split_once("</")?.0.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(String, #[source] Option<Box<Said>>);

    fn said(text: &str) -> Said {
        Said(text.into(), None)
    }

    #[test]
    fn one_sentence_with_status_and_code() {
        let s3 = said(
            "The operation lacked the necessary privileges to complete for path p/a: Error performing GET https://h/b/p/a?X-Amz-Signature=abc in 1ms - \
             Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
             <Message>The signature does not match.\nSecond line</Message><StringToSign>AWS4 secret</StringToSign></Error>",
        );
        let text = "the service answered 403 SignatureDoesNotMatch: The signature does not match";
        assert_eq!(Answer::of(&s3), Answer { status: Some(403), text: text.into() });
        let silent =
            said("Error performing HEAD https://h/b?sig=abc in 1ms - Server returned non-2xx status code: 503 Service Unavailable: ");
        assert_eq!(Answer::of(&silent).text, "the service answered 503");
        let in_success = said("Server returned error response: <Error><Code>InternalError</Code><Message>Try again</Message></Error>");
        assert_eq!(Answer::of(&in_success).text, "the service answered InternalError: Try again");
    }

    #[test]
    fn without_an_answer_the_deepest_cause_counts() {
        let error =
            Said("error sending request for url (https://h/b?sig=abc)".into(), Some(Box::new(said("Connection refused (os error 111)"))));
        assert_eq!(Answer::of(&error), Answer { status: None, text: "Connection refused (os error 111)".into() });
        assert_eq!(Answer::of(&said("no route to https://h/b?sig=abc now")).text, "no route to … now");
    }

    #[test]
    fn faults_of_the_request_are_not_tried_again() {
        let kind = |status: &str| Answer::of(&said(&format!("status code: {status} Words: "))).kind();
        for status in ["401", "403"] {
            assert_eq!(kind(status), io::ErrorKind::PermissionDenied, "{status}");
        }
        assert_eq!(kind("400"), io::ErrorKind::InvalidData);
        for status in ["404", "405"] {
            assert_eq!(kind(status), io::ErrorKind::InvalidInput, "{status}");
        }
        for status in ["408", "409", "429", "500", "503", "301"] {
            assert_eq!(kind(status), io::ErrorKind::Other, "{status}");
        }
    }
}
