//! Which services there are, and whose turn it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

/// How long a replica that couldn't be reached is passed over.
const SUSPICION: Duration = Duration::from_secs(2);

/// A service, as it stands in a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Whether anybody may call it; others need a token.
    pub is_public: bool,
    /// Who serves it.
    pub replicas: Vec<Replica>,
}

/// One replica of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// The route that leads to it.
    pub route: Uuid,
    /// `host:port`
    pub authority: String,
    /// Its share among the replicas; one of 0 gets nothing.
    pub weight: f64,
}

/// A service with what is known of its replicas.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) service: Service,
    targets: Vec<Arc<Target>>,
    /// Smooth weighted round robin: what each target is owed.
    owed: Mutex<Vec<f64>>,
}

/// A replica, and whether it could be reached.
#[derive(Debug)]
pub(crate) struct Target {
    route: Uuid,
    pub(crate) authority: String,
    /// Milliseconds since `Table::begun` until which it is passed over.
    suspect_until: AtomicU64,
}

/// All services, by name and by id.
#[derive(Debug)]
pub(crate) struct Table {
    begun: Instant,
    by_name: HashMap<String, Arc<Entry>>,
}

impl Table {
    pub(crate) fn empty() -> Self {
        Self { begun: Instant::now(), by_name: HashMap::new() }
    }

    /// The next table: replicas that stay keep what is known of them.
    pub(crate) fn next(&self, services: Vec<Service>) -> Self {
        let mut by_name = HashMap::with_capacity(services.len() * 2);
        for service in services {
            let before = self.by_name.get(&service.id.to_string());
            let targets = service.replicas.iter().map(|replica| {
                let known = before.and_then(|entry| {
                    entry.targets.iter().find(|t| t.route == replica.route && t.authority == replica.authority)
                });
                known.cloned().unwrap_or_else(|| {
                    Arc::new(Target {
                        route: replica.route,
                        authority: replica.authority.clone(),
                        suspect_until: AtomicU64::new(0),
                    })
                })
            });
            let targets: Vec<_> = targets.collect();
            let owed = Mutex::new(vec![0.0; targets.len()]);
            let entry = Arc::new(Entry { targets, owed, service });
            by_name.insert(entry.service.id.to_string(), Arc::clone(&entry));
            by_name.insert(entry.service.name.clone(), entry);
        }
        Self { begun: self.begun, by_name }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Entry>> {
        self.by_name.get(name)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The replica whose turn it is, `tried` ones left out. Those that couldn't be reached lately come last.
    pub(crate) fn pick(&self, entry: &Entry, tried: &[Arc<Target>]) -> Option<Arc<Target>> {
        let now = self.now();
        let usable = |sound: bool| {
            move |(index, target): &(usize, &Arc<Target>)| {
                let weight = entry.service.replicas[*index].weight;
                weight > 0.0
                    && (!sound || target.suspect_until.load(Ordering::Relaxed) <= now)
                    && !tried.iter().any(|t| Arc::ptr_eq(t, target))
            }
        };
        let mut candidates: Vec<_> = entry.targets.iter().enumerate().filter(usable(true)).collect();
        if candidates.is_empty() {
            candidates = entry.targets.iter().enumerate().filter(usable(false)).collect();
        }
        let mut owed = entry.owed.lock();
        let mut best: Option<(usize, &Arc<Target>)> = None;
        let mut total = 0.0;
        for (index, target) in candidates {
            let weight = entry.service.replicas[index].weight;
            owed[index] += weight;
            total += weight;
            if best.is_none_or(|(best, _)| owed[index] > owed[best]) {
                best = Some((index, target));
            }
        }
        let (index, target) = best?;
        owed[index] -= total;
        Some(Arc::clone(target))
    }

    /// Notes that a replica couldn't be reached.
    pub(crate) fn suspect(&self, target: &Target) {
        let until = self.now() + u64::try_from(SUSPICION.as_millis()).unwrap_or(u64::MAX);
        target.suspect_until.store(until, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn service(weights: &[f64]) -> Service {
        let replica = |(port, weight): (usize, &f64)| Replica {
            route: Uuid::from_u128(port as u128),
            authority: format!("h:{port}"),
            weight: *weight,
        };
        Service {
            id: Uuid::from_u128(99),
            name: "s".to_owned(),
            is_public: true,
            replicas: weights.iter().enumerate().map(replica).collect(),
        }
    }

    fn counts(table: &Table, rounds: usize) -> HashMap<String, usize> {
        let entry = table.find("s").unwrap();
        let mut counts = HashMap::new();
        for _ in 0..rounds {
            *counts.entry(table.pick(entry, &[]).unwrap().authority.clone()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn traffic_follows_the_weights_exactly() {
        let table = Table::empty().next(vec![service(&[3.0, 1.0, 0.0, 0.5])]);
        let counts = counts(&table, 900);
        assert_eq!((counts["h:0"], counts["h:1"], counts["h:3"]), (600, 200, 100));
        assert!(!counts.contains_key("h:2"));
        assert!(table.find(&Uuid::from_u128(99).to_string()).is_some());
    }

    #[test]
    fn suspects_are_passed_over_unless_nothing_else_is_left_and_stay_so_in_the_next_table() {
        let table = Table::empty().next(vec![service(&[1.0, 1.0])]);
        let first = table.pick(table.find("s").unwrap(), &[]).unwrap();
        table.suspect(&first);
        let table = table.next(vec![service(&[1.0, 1.0])]);
        assert!(!counts(&table, 20).contains_key(&first.authority));
        let entry = table.find("s").unwrap();
        let other = table.pick(entry, &[]).unwrap();
        assert!(Arc::ptr_eq(&table.pick(entry, std::slice::from_ref(&other)).unwrap(), &first));
        assert!(table.pick(entry, &[other, first]).is_none());
        assert!(Table::empty().next(vec![service(&[0.0])]).find("s").is_some_and(|e| table.pick(e, &[]).is_none()));
    }
}
