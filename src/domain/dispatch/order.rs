//! Endpoints in the order in which they are chosen, from which those that serve a given model are found without a walk past
//! all others.
//!
//! The places stand in blocks of some dozens. Each block keeps the union of the models served in it, so that a search passes
//! over whole blocks, one word of memory each. Putting a place in or taking it out touches one block.

use super::choose::Rank;
use crate::domain::ids::EndpointId;

/// Places in a block at most; a block that would have more is split in two.
const BLOCK_MAX: usize = 128;

/// Places taken out of a block before its union is made anew. Until then the union may have models that nobody in the block
/// serves any more, which costs a search a look into the block.
const STALE_MAX: usize = 32;

/// Where an endpoint stands in an order; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What the policy says of the endpoint.
    pub rank: Rank,
    /// When the endpoint was last chosen, as a count of grants.
    pub turn: u64,
    /// The endpoint.
    pub id: EndpointId,
    /// The number of the endpoint's row.
    pub row: usize,
}

/// For every endpoint, by its row, the columns of the models it serves, as bits.
///
/// It takes one bit for each endpoint and column. Only models that many endpoints serve have a column, so that there are
/// fewer columns than endpoints have models in all, divided by that many.
#[derive(Debug, Default)]
pub struct Rows {
    bits: Vec<u64>,
    /// Words of a row.
    words: usize,
}

impl Rows {
    /// Makes room for a column and a row.
    fn reserve(&mut self, row: usize, column: usize) {
        let words = self.words.max(column / 64 + 1);
        if words > self.words {
            let rows = self.bits.len().checked_div(self.words).unwrap_or(0);
            let mut bits = vec![0; rows * words];
            for (row, old) in self.bits.chunks(self.words.max(1)).enumerate() {
                bits[row * words..][..old.len()].copy_from_slice(old);
            }
            (self.bits, self.words) = (bits, words);
        }
        if self.bits.len() < (row + 1) * words {
            self.bits.resize((row + 1) * words, 0);
        }
    }

    /// Marks that the endpoint of a row serves the model of a column, or no longer does.
    pub fn set(&mut self, row: usize, column: usize, serves: bool) {
        self.reserve(row, column);
        let word = &mut self.bits[row * self.words + column / 64];
        let bit = 1 << (column % 64);
        *word = if serves { *word | bit } else { *word & !bit };
    }

    fn has(&self, row: usize, column: usize) -> bool {
        self.word(row, column / 64) & (1 << (column % 64)) != 0
    }

    fn word(&self, row: usize, word: usize) -> u64 {
        if word < self.words { self.bits.get(row * self.words + word).copied().unwrap_or(0) } else { 0 }
    }
}

#[derive(Debug)]
struct Block {
    /// In order, never empty.
    places: Vec<Place>,
    /// How many were taken out since the union was made.
    stale: usize,
}

/// Places in order.
#[derive(Debug, Default)]
pub struct Order {
    blocks: Vec<Block>,
    /// The least place that a block may hold, block by block.
    starts: Vec<Place>,
    /// The models served in each block, or a few more: word by word of a row, block by block.
    unions: Vec<Vec<u64>>,
}

impl Order {
    /// Puts a place in.
    pub fn insert(&mut self, rows: &Rows, place: Place) {
        if self.blocks.is_empty() {
            self.blocks.push(Block { places: Vec::new(), stale: 0 });
            self.starts.push(place);
            self.unions.iter_mut().for_each(|union| union.push(0));
        }
        let at = self.block_of(&place);
        self.starts[at] = self.starts[at].min(place);
        let places = &mut self.blocks[at].places;
        let (Ok(index) | Err(index)) = places.binary_search(&place);
        places.insert(index, place);
        if places.len() <= BLOCK_MAX {
            self.widen(rows, at, &place);
            return;
        }
        let upper = places.split_off(BLOCK_MAX / 2);
        self.starts.insert(at + 1, upper[0]);
        self.blocks.insert(at + 1, Block { places: upper, stale: 0 });
        self.unions.iter_mut().for_each(|union| union.insert(at + 1, 0));
        self.unite(rows, at);
        self.unite(rows, at + 1);
    }

    /// Takes a place out, which must be in.
    pub fn remove(&mut self, rows: &Rows, place: &Place) {
        let at = self.block_of(place);
        let Some(block) = self.blocks.get_mut(at) else { return };
        let Ok(index) = block.places.binary_search(place) else { return };
        block.places.remove(index);
        block.stale += 1;
        if block.places.is_empty() {
            self.blocks.remove(at);
            self.starts.remove(at);
            for union in &mut self.unions {
                union.remove(at);
            }
        } else if block.stale > STALE_MAX {
            self.unite(rows, at);
        }
    }

    /// Takes note that the row of a place has more columns than when the place was put in.
    pub fn widened(&mut self, rows: &Rows, place: &Place) {
        self.widen(rows, self.block_of(place), place);
    }

    /// Returns the places of endpoints that serve the model of a column, the best first.
    pub fn serving<'a>(&'a self, rows: &'a Rows, column: usize) -> impl Iterator<Item = &'a Place> {
        let (word, bit) = (column / 64, 1 << (column % 64));
        let unions = self.unions.get(word).map(Vec::as_slice).unwrap_or_default();
        let blocks = unions.iter().zip(&self.blocks).filter(move |(union, _)| *union & bit != 0);
        blocks.flat_map(|(_, block)| &block.places).filter(move |place| rows.has(place.row, column))
    }

    /// Tells whether a place is in.
    pub fn contains(&self, place: &Place) -> bool {
        self.blocks.get(self.block_of(place)).is_some_and(|block| block.places.binary_search(place).is_ok())
    }

    /// Returns how many places are in.
    pub fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.places.len()).sum()
    }

    fn block_of(&self, place: &Place) -> usize {
        self.starts.partition_point(|start| start <= place).saturating_sub(1)
    }

    /// Adds the models of a place to the union of its block.
    fn widen(&mut self, rows: &Rows, at: usize, place: &Place) {
        self.fit(rows);
        for (word, union) in self.unions.iter_mut().enumerate() {
            union[at] |= rows.word(place.row, word);
        }
    }

    /// Gives every union the words of a row.
    fn fit(&mut self, rows: &Rows) {
        self.unions.resize_with(rows.words.max(self.unions.len()), || vec![0; self.blocks.len()]);
    }

    /// Makes the union of a block anew.
    fn unite(&mut self, rows: &Rows, at: usize) {
        self.fit(rows);
        let block = &mut self.blocks[at];
        block.stale = 0;
        for (word, union) in self.unions.iter_mut().enumerate() {
            union[at] = block.places.iter().fold(0, |union, place| union | rows.word(place.row, word));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const ROWS: usize = 400;

    fn place(row: usize, turn: u64) -> Place {
        Place { rank: Rank::default(), turn, id: EndpointId(Uuid::from_u128(row as u128)), row }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_walk_through_a_plain_list_finds(
            moves in proptest::collection::vec((0..ROWS, 0_u64..1000, any::<bool>()), 1..1500),
            columns in proptest::collection::vec((0..ROWS, 0_usize..130), 0..600),
            late in proptest::collection::vec((0..ROWS, 0_usize..200), 0..20),
        ) {
            let (mut rows, mut order) = (Rows::default(), Order::default());
            let mut turns: Vec<Option<u64>> = vec![None; ROWS];
            columns.iter().for_each(|(row, column)| rows.set(*row, *column, true));
            for (row, turn, stays) in moves {
                if let Some(turn) = turns[row].take() {
                    order.remove(&rows, &place(row, turn));
                }
                if stays {
                    order.insert(&rows, place(row, turn));
                    turns[row] = Some(turn);
                }
            }
            for (row, column) in late {
                rows.set(row, column, true);
                if let Some(turn) = turns[row] {
                    order.widened(&rows, &place(row, turn));
                }
            }
            let mut expected: Vec<Place> =
                (0..ROWS).filter_map(|row| Some(place(row, turns[row]?))).collect();
            expected.sort_unstable();
            prop_assert_eq!(order.len(), expected.len());
            prop_assert!(expected.iter().all(|place| order.contains(place)));
            for column in 0..200 {
                let serving = expected.iter().filter(|place| rows.has(place.row, column));
                prop_assert!(order.serving(&rows, column).eq(serving));
            }
        }
    }
}
