//! A queue of items, each with a set of models. The queue finds the first item whose set has a model in common with
//! another set.
//!
//! The items are the leaves of a binary tree in the order of the queue. Every node holds the union of the sets below
//! it. Pushing, removing and finding walk one path of the tree. Places are renumbered when no leaf is left, at most
//! once in as many pushes as there are items.

use super::model_set::ModelSet;

/// The number of leaves of the smallest tree.
const CAPACITY_MIN: usize = 4;

/// Items in order, each with a set of models.
#[derive(Debug)]
pub struct ModelQueue<T> {
    /// The items by place; `None` where an item has left, and in the places before all items.
    items: Vec<Option<T>>,
    /// How many places are free before all items.
    front: usize,
    /// The tree: node 1 is the root, the children of `n` are `2n` and `2n + 1`, and the leaves are the upper half.
    nodes: Vec<ModelSet>,
    len: usize,
}

impl<T> Default for ModelQueue<T> {
    fn default() -> Self {
        Self { items: Vec::new(), front: 0, nodes: Vec::new(), len: 0 }
    }
}

impl<T> ModelQueue<T> {
    /// Tells whether the queue has no items.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the union of the sets of all items.
    pub fn models(&self) -> ModelSet {
        self.nodes.get(1).cloned().unwrap_or_default()
    }

    /// Adds an item at the end and returns its place. If the other items get new places, `moved` is called with each of
    /// them.
    pub fn push(&mut self, item: T, models: ModelSet, moved: impl FnMut(&T, usize)) -> usize {
        if self.items.len() == self.capacity() {
            self.renumber(0, moved);
        }
        let place = self.items.len();
        self.items.push(Some(item));
        self.len += 1;
        self.set(place, models);
        place
    }

    /// Adds an item before all others and returns its place. If the other items get new places, `moved` is called with
    /// each of them.
    pub fn push_front(&mut self, item: T, models: ModelSet, moved: impl FnMut(&T, usize)) -> usize {
        if self.front == 0 {
            self.renumber(self.len.max(1), moved);
        }
        self.front -= 1;
        self.items[self.front] = Some(item);
        self.len += 1;
        self.set(self.front, models);
        self.front
    }

    /// Returns the item at a place; `None` if the place holds no item.
    pub fn get(&self, place: usize) -> Option<&T> {
        self.items.get(place)?.as_ref()
    }

    /// Takes the item out of a place; `None` if the place holds no item.
    pub fn remove(&mut self, place: usize) -> Option<T> {
        let item = self.items.get_mut(place)?.take()?;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        } else {
            self.set(place, ModelSet::default());
        }
        Some(item)
    }

    /// Replaces the set of the item at a place.
    pub fn set(&mut self, place: usize, models: ModelSet) {
        let mut node = self.capacity() + place;
        self.nodes[node] = models;
        while node > 1 {
            node /= 2;
            let (parents, children) = self.nodes.split_at_mut(2 * node);
            parents[node].set_union(&children[0], &children[1]);
        }
    }

    /// Returns the place of the first item that has one of these models; `None` if no item has.
    pub fn first(&self, models: &ModelSet) -> Option<usize> {
        if !self.nodes.get(1)?.meets(models) {
            return None;
        }
        let capacity = self.capacity();
        let mut node = 1;
        while node < capacity {
            node *= 2;
            if !self.nodes[node].meets(models) {
                node += 1;
            }
        }
        Some(node - capacity)
    }

    /// Returns the place of the first item that has one of these models and is wanted. The search walks one path of the
    /// tree for each item that has one of the models and is not wanted.
    pub fn first_wanted(&self, models: &ModelSet, mut wanted: impl FnMut(&T) -> bool) -> Option<usize> {
        self.search(1, models, &mut wanted)
    }

    fn search(&self, node: usize, models: &ModelSet, wanted: &mut impl FnMut(&T) -> bool) -> Option<usize> {
        if !self.nodes.get(node)?.meets(models) {
            return None;
        }
        match node.checked_sub(self.capacity()) {
            Some(place) => self.get(place).is_some_and(wanted).then_some(place),
            None => self.search(2 * node, models, wanted).or_else(|| self.search(2 * node + 1, models, wanted)),
        }
    }

    /// Returns the items in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().flatten()
    }

    fn capacity(&self) -> usize {
        self.nodes.len() / 2
    }

    /// Gives all items new places without gaps. `front` places before the items stay free, and behind the items at
    /// least as many places as there are items.
    fn renumber(&mut self, front: usize, mut moved: impl FnMut(&T, usize)) {
        let old_capacity = self.capacity();
        let capacity = (front + 2 * self.len).next_power_of_two().max(CAPACITY_MIN);
        let mut nodes = vec![ModelSet::default(); 2 * capacity];
        let mut items = Vec::with_capacity(capacity);
        items.resize_with(front, || None);
        for (old_place, item) in std::mem::take(&mut self.items).into_iter().enumerate() {
            let Some(item) = item else { continue };
            let place = items.len();
            moved(&item, place);
            nodes[capacity + place] = std::mem::take(&mut self.nodes[old_capacity + old_place]);
            items.push(Some(item));
        }
        for node in (1..capacity).rev() {
            let (parents, children) = nodes.split_at_mut(2 * node);
            parents[node].set_union(&children[0], &children[1]);
        }
        (self.items, self.front, self.nodes) = (items, front, nodes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Action {
        Push(Vec<usize>),
        PushFront(Vec<usize>),
        Remove(usize),
        Set(usize, Vec<usize>),
        First(Vec<usize>),
    }

    fn set(numbers: &[usize]) -> ModelSet {
        let mut set = ModelSet::default();
        numbers.iter().for_each(|number| set.insert(*number));
        set
    }

    fn action() -> impl Strategy<Value = Action> {
        let models = || proptest::collection::vec(0_usize..130, 1..4);
        prop_oneof![
            3 => models().prop_map(Action::Push),
            1 => models().prop_map(Action::PushFront),
            2 => any::<usize>().prop_map(Action::Remove),
            1 => (any::<usize>(), models()).prop_map(|(place, models)| Action::Set(place, models)),
            3 => models().prop_map(Action::First),
        ]
    }

    proptest! {
        #[test]
        fn it_finds_what_a_walk_through_a_plain_list_finds(actions in proptest::collection::vec(action(), 1..300)) {
            let mut queue = ModelQueue::default();
            let mut list: Vec<(usize, ModelSet)> = Vec::new();
            let mut places = HashMap::new();
            for (item, action) in actions.into_iter().enumerate() {
                match action {
                    Action::Push(models) => {
                        let place = queue.push(item, set(&models), |item, place| { places.insert(*item, place); });
                        places.insert(item, place);
                        list.push((item, set(&models)));
                    }
                    Action::PushFront(models) => {
                        let moved = |item: &usize, place| { places.insert(*item, place); };
                        let place = queue.push_front(item, set(&models), moved);
                        places.insert(item, place);
                        list.insert(0, (item, set(&models)));
                    }
                    Action::Remove(at) if !list.is_empty() => {
                        let (item, _) = list.remove(at % list.len());
                        prop_assert_eq!(queue.remove(places[&item]), Some(item));
                    }
                    Action::Set(at, models) if !list.is_empty() => {
                        let at = at % list.len();
                        list[at].1 = set(&models);
                        queue.set(places[&list[at].0], set(&models));
                    }
                    Action::First(models) => {
                        let wanted = set(&models);
                        let found = queue.first(&wanted).and_then(|place| queue.get(place).copied());
                        let expected = list.iter().find(|(_, models)| models.meets(&wanted)).map(|(item, _)| *item);
                        prop_assert_eq!(found, expected);
                        let is_odd = |item: &usize| item % 2 == 1;
                        let found = queue.first_wanted(&wanted, is_odd).and_then(|place| queue.get(place).copied());
                        let mut odd = list.iter().filter(|(item, models)| is_odd(item) && models.meets(&wanted));
                        prop_assert_eq!(found, odd.next().map(|(item, _)| *item));
                    }
                    Action::Remove(_) | Action::Set(..) => {}
                }
                prop_assert_eq!(queue.len(), list.len());
                prop_assert!(queue.iter().eq(list.iter().map(|(item, _)| item)));
            }
        }
    }

    #[test]
    fn an_empty_queue_holds_no_memory() {
        let mut queue = ModelQueue::default();
        for round in 0..1000 {
            queue.push(round, ModelSet::of(0), |_, _| {});
        }
        while let Some(place) = queue.first(&ModelSet::of(0)) {
            queue.remove(place);
        }
        assert_eq!((queue.items.capacity(), queue.nodes.capacity()), (0, 0));
    }
}
