//! How many associations there may be, and how many of them one host may hold: the others must find a place too.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The places of a server.
#[derive(Debug)]
pub struct Places {
    most: usize,
    most_per_host: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("all {0} associations are taken (dicom.max_associations)")]
    Everywhere(usize),
    #[error("this host has {0} associations already (dicom.max_associations_per_host)")]
    Host(usize),
}

/// A place taken; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    host: IpAddr,
}

impl Places {
    pub fn new(most: usize, most_per_host: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_per_host,
            taken: Mutex::default(),
        })
    }

    pub fn take(self: &Arc<Self>, host: IpAddr) -> Result<Place, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= self.most {
            return Err(Full::Everywhere(self.most));
        }
        let own = taken.entry(host).or_default();
        if *own >= self.most_per_host {
            return Err(Full::Host(self.most_per_host));
        }
        *own += 1;
        Ok(Place {
            places: self.clone(),
            host,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.host) {
            *own -= 1;
            // Hosts that left are forgotten: there are more addresses than memory.
            if *own == 0 {
                taken.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_takes_all_places_and_those_given_back_count_again() {
        let places = Places::new(3, 2);
        let host = |last| IpAddr::from([10, 0, 0, last]);
        let first = places.take(host(1)).unwrap();
        let _second = places.take(host(1)).unwrap();
        assert_eq!(places.take(host(1)).unwrap_err(), Full::Host(2));
        let other = places.take(host(2)).unwrap();
        assert_eq!(places.take(host(3)).unwrap_err(), Full::Everywhere(3));
        drop((first, other));
        assert_eq!(places.taken.lock().unwrap().len(), 1);
        places.take(host(1)).unwrap();
    }
}
