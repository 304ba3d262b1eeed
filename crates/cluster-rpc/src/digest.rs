//! An order-free sum over a routing table: equal tables have equal sums.

use mqtt_codec::QoS;
use xxhash_rust::xxh3::Xxh3Default;

use crate::frame::Route;

/// The wrapping sum of XXH3-128(filter, QoS + 1) over the rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteDigest(u128);

impl RouteDigest {
    /// A row came. A withdrawal is no row and changes nothing.
    pub fn add(&mut self, route: &Route) {
        self.0 = self.0.wrapping_add(row(route.filter.as_str(), route.qos));
    }

    /// A row went, or is about to be replaced.
    pub fn remove(&mut self, route: &Route) {
        self.0 = self.0.wrapping_sub(row(route.filter.as_str(), route.qos));
    }

    /// The sum.
    #[must_use]
    pub fn value(&self) -> u128 {
        self.0
    }
}

fn row(filter: &str, qos: Option<QoS>) -> u128 {
    let Some(qos) = qos else { return 0 };
    let mut hash = Xxh3Default::new();
    hash.update(filter.as_bytes());
    hash.update(&[qos as u8 + 1]);
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use mqtt_codec::TopicFilter;

    use super::*;

    fn route(filter: &str, qos: QoS) -> Route {
        Route { filter: TopicFilter::new(filter.to_owned()).unwrap(), qos: Some(qos) }
    }

    #[test]
    fn the_sum_does_not_depend_on_order_or_history() {
        let (a, b) = (route("a", QoS::AtMostOnce), route("b/+", QoS::ExactlyOnce));
        let (mut one, mut other) = (RouteDigest::default(), RouteDigest::default());
        one.add(&a);
        one.add(&b);
        other.add(&route("gone", QoS::AtLeastOnce));
        other.add(&b);
        other.add(&a);
        other.remove(&route("gone", QoS::AtLeastOnce));
        assert_eq!(one, other);
        assert_ne!(one.value(), 0);
    }

    #[test]
    fn another_qos_is_another_row() {
        let (mut one, mut other) = (RouteDigest::default(), RouteDigest::default());
        one.add(&route("a", QoS::AtMostOnce));
        other.add(&route("a", QoS::AtLeastOnce));
        assert_ne!(one, other);
    }
}
