//! The waiting clients and requests of each key.

use std::collections::BTreeSet;

use foldhash::HashMap;

use crate::domain::dispatch::limits::AccountNumber;
use crate::domain::dispatch::models::ModelNumber;

/// The waiting clients and requests of the accounts of keys. An account without waiting requests takes no memory.
#[derive(Debug, Default)]
pub struct Accounts(HashMap<AccountNumber, Waiting>);

/// What waits of one account.
#[derive(Debug, Default)]
pub struct Waiting {
    /// The clients, by their keys in the line.
    pub clients: BTreeSet<usize>,
    /// How many requests wait for each model.
    pub demand: HashMap<ModelNumber, usize>,
}

impl Accounts {
    /// Adds a request of a client.
    pub fn add(&mut self, account: AccountNumber, client: usize, model: ModelNumber) {
        let waiting = self.0.entry(account).or_default();
        waiting.clients.insert(client);
        *waiting.demand.entry(model).or_default() += 1;
    }

    /// Removes a request of a client; `is_last` if it was the last one of the client.
    pub fn subtract(&mut self, account: AccountNumber, client: usize, model: ModelNumber, is_last: bool) {
        let Some(waiting) = self.0.get_mut(&account) else { return };
        if let Some(count) = waiting.demand.get_mut(&model) {
            *count -= 1;
            if *count == 0 {
                waiting.demand.remove(&model);
            }
        }
        if is_last {
            waiting.clients.remove(&client);
        }
        if waiting.clients.is_empty() {
            self.0.remove(&account);
        }
    }

    /// Returns what waits of an account; `None` if nothing does.
    pub fn get(&self, account: AccountNumber) -> Option<&Waiting> {
        self.0.get(&account)
    }

    /// Returns the accounts.
    pub fn iter(&self) -> impl Iterator<Item = (AccountNumber, &Waiting)> {
        self.0.iter().map(|(account, waiting)| (*account, waiting))
    }
}

impl Waiting {
    /// Returns how many requests wait.
    pub fn len(&self) -> usize {
        self.demand.values().sum()
    }
}
