//! `round_robin`: the endpoint whose last turn is longest ago.

use super::Standing;

/// Ranks all endpoints alike.
pub fn judge() -> Standing {
    Standing::default()
}
