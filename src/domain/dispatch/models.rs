//! The models in use, each with a number. A number finds the data of its model without hashing the model's name again.

use std::collections::HashMap;

use slab::Slab;

use super::estimate::{ServiceTime, TokensPerByte};
use crate::domain::ids::ModelId;

/// The number of a model. The number does not change as long as the model has a user; later it may go to another model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelNumber(
    /// From 0. Numbers of forgotten models are used again, so that they stay small enough to be places in a list.
    pub usize,
);

/// One model in use.
#[derive(Debug)]
struct Model {
    name: ModelId,
    /// How many endpoints that have the model, waiting requests and leases use the number.
    users: usize,
    service_time: ServiceTime,
    tokens_per_byte: TokensPerByte,
}

/// The models that an endpoint has, a request waits for or a lease was granted for. The number of requests is bounded
/// by the line and the slots, that of endpoints and their models by the operator. These bounds also bound the number of
/// models here.
#[derive(Debug, Default)]
pub struct Models {
    models: Slab<Model>,
    numbers: HashMap<ModelId, usize>,
}

impl Models {
    /// Returns the number of a model and counts one more user of it.
    pub fn take(&mut self, name: &ModelId) -> ModelNumber {
        if let Some(number) = self.numbers.get(name) {
            self.models[*number].users += 1;
            return ModelNumber(*number);
        }
        let (service_time, tokens_per_byte) = (ServiceTime::default(), TokensPerByte::default());
        let model = Model { name: name.clone(), users: 1, service_time, tokens_per_byte };
        let number = self.models.insert(model);
        self.numbers.insert(name.clone(), number);
        ModelNumber(number)
    }

    /// Counts one user less; a model without users is forgotten.
    pub fn give_back(&mut self, number: ModelNumber) {
        let model = &mut self.models[number.0];
        model.users -= 1;
        if model.users == 0 {
            let model = self.models.remove(number.0);
            self.numbers.remove(&model.name);
        }
    }

    /// Returns the name of a model in use.
    pub fn name(&self, number: ModelNumber) -> &ModelId {
        &self.models[number.0].name
    }

    /// Returns the mean service time of recent requests for a model.
    pub fn service_time(&self, number: ModelNumber) -> ServiceTime {
        self.models[number.0].service_time
    }

    /// Returns the mean service time of recent requests for a model, to record one more request.
    pub fn service_time_mut(&mut self, number: ModelNumber) -> &mut ServiceTime {
        &mut self.models[number.0].service_time
    }

    /// Returns how many tokens a byte of a request for a model has.
    pub fn tokens_per_byte(&self, number: ModelNumber) -> TokensPerByte {
        self.models[number.0].tokens_per_byte
    }

    /// Returns how many tokens a byte of a request for a model has, to learn from one more request.
    pub fn tokens_per_byte_mut(&mut self, number: ModelNumber) -> &mut TokensPerByte {
        &mut self.models[number.0].tokens_per_byte
    }

    /// Returns the number of users of all models together.
    pub fn users(&self) -> usize {
        self.models.iter().map(|(_, model)| model.users).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_once_nobody_uses_them() {
        let mut models = Models::default();
        let [a, b, c] = ["a", "b", "c"].map(ModelId::from);
        let first = models.take(&a);
        let second = models.take(&b);
        assert_ne!(first, second);
        assert_eq!((models.take(&a), models.users()), (first, 3));
        models.give_back(first);
        assert_eq!((models.take(&a), models.name(first)), (first, &a));
        models.give_back(first);
        models.give_back(first);
        assert_eq!(models.take(&c), first);
    }
}
