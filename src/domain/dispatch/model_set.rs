//! Sets of numbered models, stored as bits.

use super::models::ModelNumber;

/// A set of numbered models. A set of numbers below 64 needs no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSet {
    first: u64,
    rest: Vec<u64>,
}

impl ModelSet {
    /// Returns the set of one model.
    pub fn of(number: usize) -> Self {
        let mut set = Self::default();
        set.insert(number);
        set
    }

    /// Adds the model with this number.
    pub fn insert(&mut self, number: usize) {
        let bit = 1 << (number % 64);
        match (number / 64).checked_sub(1) {
            None => self.first |= bit,
            Some(word) => {
                if self.rest.len() <= word {
                    self.rest.resize(word + 1, 0);
                }
                self.rest[word] |= bit;
            }
        }
    }

    /// Tells whether the sets have a model in common.
    pub fn meets(&self, other: &ModelSet) -> bool {
        self.first & other.first != 0 || self.rest.iter().zip(&other.rest).any(|(a, b)| a & b != 0)
    }

    /// Tells whether the model with this number is in the set.
    pub fn contains(&self, number: usize) -> bool {
        let word = match (number / 64).checked_sub(1) {
            None => self.first,
            Some(word) => self.rest.get(word).copied().unwrap_or(0),
        };
        word & (1 << (number % 64)) != 0
    }

    /// Replaces this set by the union of `a` and `b`, without a new allocation where possible.
    pub fn set_union(&mut self, a: &ModelSet, b: &ModelSet) {
        self.first = a.first | b.first;
        let (long, short) = if a.rest.len() >= b.rest.len() { (a, b) } else { (b, a) };
        self.rest.clone_from(&long.rest);
        self.rest.iter_mut().zip(&short.rest).for_each(|(word, more)| *word |= more);
    }
}

impl<'a> FromIterator<&'a ModelNumber> for ModelSet {
    fn from_iter<I: IntoIterator<Item = &'a ModelNumber>>(models: I) -> Self {
        let mut set = Self::default();
        models.into_iter().for_each(|model| set.insert(model.0));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: &[usize]) -> ModelSet {
        let mut set = ModelSet::default();
        numbers.iter().for_each(|number| set.insert(*number));
        set
    }

    #[test]
    fn sets_meet_in_what_they_have_in_common() {
        let check = |a: &[usize], b: &[usize], expected| {
            assert_eq!(set(a).meets(&set(b)), expected, "{a:?} {b:?}");
            assert_eq!(set(b).meets(&set(a)), expected, "{b:?} {a:?}");
        };
        check(&[], &[], false);
        check(&[3], &[3, 5], true);
        check(&[3], &[67], false);
        check(&[1, 63, 200], &[200], true);
        check(&[1, 63, 200], &[64, 128], false);
    }

    #[test]
    fn a_set_contains_what_was_put_in() {
        let set = set(&[0, 63, 64, 200]);
        let contained: Vec<usize> = (0..300).filter(|number| set.contains(*number)).collect();
        assert_eq!(contained, [0, 63, 64, 200]);
    }

    #[test]
    fn a_union_has_the_models_of_both() {
        let check = |a: &[usize], b: &[usize]| {
            let mut union = set(&[1, 500]);
            union.set_union(&set(a), &set(b));
            for number in a.iter().chain(b) {
                assert!(union.meets(&ModelSet::of(*number)));
            }
            assert_eq!(union.meets(&set(&[500])), a.contains(&500) || b.contains(&500));
        };
        check(&[1], &[64, 300]);
        check(&[130], &[2]);
        check(&[], &[500]);
    }
}
