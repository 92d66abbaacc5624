//! Whether a password may become a key. It is judged when it is made, never when it opens something.

use zxcvbn::zxcvbn;

use crate::error::{Exit, Failure};

/// Shorter ones can be tried one after the other, whatever each try costs.
pub(super) const LENGTH_MIN: usize = 14;
/// What is advised.
pub(super) const LENGTH_ADVISED: usize = 20;
/// Fewer tries are within reach of somebody who has a copy of the slot: at a second for each, a thousand machines need four months for 10^10.
const TRIES_LOG10_MIN: f64 = 10.0;

/// Refuses what is too short, and what is long and still soon guessed by a program that knows words, names, dates, keyboards and repetitions. `known` is what
/// everybody knows who sees the repository.
///
/// # Errors
/// Why, and what is better.
pub(super) fn judge(password: &str, known: &[&str]) -> Result<(), Failure> {
    let refused = |reason: String| {
        Err(Failure::new(Exit::Usage, reason).hint(format!(
            "take {LENGTH_ADVISED} characters or more, such as five or six words that have nothing to do with each other; --weak-password takes it as it is"
        )))
    };
    let length = password.chars().count();
    if length < LENGTH_MIN {
        return refused(format!("the password has {length} characters: all with fewer than {LENGTH_MIN} can be tried by machines"));
    }
    let estimate = zxcvbn(password, known);
    if estimate.guesses_log10() < TRIES_LOG10_MIN {
        let tries = estimate.guesses_log10().ceil();
        let warning =
            estimate.feedback().and_then(|feedback| feedback.warning()).map(|warning| format!(" ({warning})")).unwrap_or_default();
        return refused(format!("the password is long, but a program that knows habits guesses it in 10^{tries} tries or fewer{warning}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ones_and_habits_are_refused() {
        for (password, says) in [
            ("", "0 characters"),
            ("x9!Kq2#mZ7&pL", "13 characters"),
            ("Password123456", "habits"),
            ("aaaaaaaaaaaaaaaaaaaaaa", "habits"),
            ("abcabcabcabcabcabcabc", "habits"),
            ("qwertyuiopasdfghjkl", "habits"),
            ("12345678901234567890", "habits"),
            ("/mnt/usb/backup", "habits"),
        ] {
            let failure = judge(password, &["/mnt/usb/backup"]).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.contains(says), "{password}: {}", failure.message);
            assert!(failure.hint.unwrap().contains("20 characters"));
        }
    }

    #[test]
    fn several_words_and_chance_are_taken() {
        for password in ["correct horse battery", "x9!Kq2#mZ7&pLw", "Käse Tür Mond Hafen sieben"] {
            assert!(judge(password, &[]).is_ok(), "{password}");
        }
    }
}
