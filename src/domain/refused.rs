//! Refused requests. All of them are counted by code and minute; only a few become a row of the history.

/// The key by which refused requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefusedKey {
    /// The minute of the refusal, counted since 1970-01-01T00:00Z.
    pub minute: i64,
    /// The code of the answer, one of [`Refusal::code`](super::request::Refusal::code).
    pub code: &'static str,
}

/// Lets the first refusal of each second and code become a history row, so that a flood of refusals cannot fill the
/// disk.
#[derive(Debug, Default)]
pub struct RefusalRows {
    /// Each code with the second of its latest row. There are at most as many as [`Refusal`](super::request::Refusal)
    /// has codes.
    latest: Vec<(&'static str, i64)>,
}

impl RefusalRows {
    /// Tells whether a refusal with this code becomes a row. `second` is the time of the refusal since
    /// 1970-01-01T00:00Z.
    pub fn has_room(&mut self, code: &'static str, second: i64) -> bool {
        match self.latest.iter_mut().find(|(known, _)| *known == code) {
            Some((_, latest)) => std::mem::replace(latest, second) != second,
            None => {
                self.latest.push((code, second));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_of_each_second_and_code_has_room() {
        let mut rows = RefusalRows::default();
        for (code, second, expected) in [
            ("queue_full", 7, true),
            ("queue_full", 7, false),
            ("overloaded", 7, true),
            ("queue_full", 7, false),
            ("queue_full", 8, true),
            ("overloaded", 7, false),
            ("queue_full", 3, true),
        ] {
            assert_eq!(rows.has_room(code, second), expected, "{code} at {second}");
        }
    }
}
