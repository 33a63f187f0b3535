//! Endpoints in the order in which they are chosen. A search finds the endpoints that serve a model without a walk past
//! all others.
//!
//! The places are kept in blocks of at most 128. Each block has the union of the models that its endpoints serve, so
//! that a search skips a whole block by looking at one word of memory. Inserting or removing a place changes one block.

use super::choose::Rank;
use crate::domain::ids::EndpointId;

/// How many places a block has at most. A block that would have more is split in two.
const BLOCK_MAX: usize = 128;

/// How many places are removed from a block before its union is computed again. Until then the union may have models
/// that no endpoint of the block serves. A search for such a model looks into the block in vain.
const STALE_MAX: usize = 32;

/// The place of an endpoint in an order; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The rank that the policy gives the endpoint.
    pub rank: Rank,
    /// The number of the grant that last chose the endpoint.
    pub turn: u64,
    /// The endpoint.
    pub id: EndpointId,
    /// The number of the endpoint's row.
    pub row: usize,
}

/// A table of bits. A bit tells whether the endpoint of a row serves the model of a column.
///
/// Only models that many endpoints serve have a column. Therefore the number of columns is at most an eighth of the
/// number of models of all endpoints together.
#[derive(Debug, Default)]
pub struct Rows {
    bits: Vec<u64>,
    /// How many words a row has.
    words: usize,
}

impl Rows {
    /// Makes the table large enough for a row and a column.
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

    /// Sets whether the endpoint of a row serves the model of a column.
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
    /// The places in order; never empty.
    places: Vec<Place>,
    /// How many places were removed since the union was computed.
    stale: usize,
}

/// The places of endpoints in order.
#[derive(Debug, Default)]
pub struct Order {
    blocks: Vec<Block>,
    /// The least place that a block may hold, block by block.
    starts: Vec<Place>,
    /// For each word of a row, the union of that word over the rows of each block. A union may have bits that no row
    /// has any more.
    unions: Vec<Vec<u64>>,
}

impl Order {
    /// Inserts a place.
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

    /// Removes a place; without effect if the order does not contain it.
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

    /// Learns that the row of a place got another column after the place was inserted.
    pub fn widened(&mut self, rows: &Rows, place: &Place) {
        self.widen(rows, self.block_of(place), place);
    }

    /// Returns the places of the endpoints that serve the model of a column, the best first.
    pub fn serving<'a>(&'a self, rows: &'a Rows, column: usize) -> impl Iterator<Item = &'a Place> {
        let (word, bit) = (column / 64, 1 << (column % 64));
        let unions = self.unions.get(word).map(Vec::as_slice).unwrap_or_default();
        let blocks = unions.iter().zip(&self.blocks).filter(move |(union, _)| *union & bit != 0);
        blocks.flat_map(|(_, block)| &block.places).filter(move |place| rows.has(place.row, column))
    }

    /// Tells whether the order contains a place.
    pub fn contains(&self, place: &Place) -> bool {
        self.blocks.get(self.block_of(place)).is_some_and(|block| block.places.binary_search(place).is_ok())
    }

    /// Returns the number of places.
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

    /// Gives the unions as many words as a row has.
    fn fit(&mut self, rows: &Rows) {
        self.unions.resize_with(rows.words.max(self.unions.len()), || vec![0; self.blocks.len()]);
    }

    /// Computes the union of a block again.
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
