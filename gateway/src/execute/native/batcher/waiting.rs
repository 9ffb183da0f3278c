//! Who waits, how large batches are, and who goes into the next one.

use std::{collections::VecDeque, time::Instant};

use crate::{execute::Batching, name::TenantName};

use super::Member;

/// The sizes of batches, each of which has a plan of its own that takes time and memory to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes(Vec<u64>);

impl Sizes {
    /// The preferred ones, or else quarters of the largest; always with 1 and the largest.
    pub(super) fn new(batching: &Batching) -> Self {
        let mut sizes = batching.preferred.clone();
        sizes.retain(|size| (1..=batching.max).contains(size));
        if sizes.is_empty() {
            sizes.extend(
                std::iter::successors(Some(batching.max), |size| Some(size / 4)).take_while(|size| *size > 0),
            );
        }
        sizes.extend([1, batching.max]);
        sizes.sort_unstable();
        sizes.dedup();
        Self(sizes)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn largest(&self) -> u64 {
        self.0.last().copied().unwrap_or(1)
    }

    /// How many rows to take of so many: all, if the batch that holds them is more than half full, else a batch that they fill.
    fn of(&self, waiting: u64) -> u64 {
        let above = self.0.iter().find(|size| **size >= waiting).copied().unwrap_or_else(|| self.largest());
        let below = self.0.iter().rfind(|size| **size <= waiting).copied().unwrap_or(1);
        if waiting > above / 2 { above } else { below }
    }

    /// The size of the batch that so many rows run in.
    pub(super) fn padded(&self, rows: u64) -> u64 {
        self.0.iter().find(|size| **size >= rows).copied().unwrap_or(rows)
    }
}

/// Those that wait, apart by the shape of their rows.
#[derive(Default)]
pub(super) struct Waiting {
    groups: Vec<Group>,
    rows: u64,
    /// Somebody forms batches of them.
    forming: bool,
}

struct Group {
    /// The shapes of the inputs without the first dimension, by name.
    inner: Vec<(String, Vec<u64>)>,
    rows: u64,
    /// In the order of their turns; each has members.
    tenants: VecDeque<Own>,
}

struct Own {
    tenant: TenantName,
    members: VecDeque<Member>,
    /// Rows that it has in the batch which is being formed.
    taken: u64,
}

impl Waiting {
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether the caller is to form batches now.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.forming, true)
    }

    /// Since when the first of them waits; nobody forms batches any more if there is none.
    pub(super) fn oldest(&mut self) -> Option<Instant> {
        let oldest = self.groups.iter().filter_map(Group::oldest).min();
        self.forming = oldest.is_some();
        oldest
    }

    pub(super) fn add(&mut self, member: Member) {
        let mut inner: Vec<(String, Vec<u64>)> = member
            .request
            .inputs
            .iter()
            .map(|input| (input.name.clone(), input.shape.get(1..).unwrap_or_default().to_vec()))
            .collect();
        inner.sort_unstable();
        self.rows += member.rows;
        let group = match self.groups.iter_mut().position(|group| group.inner == inner) {
            Some(position) => &mut self.groups[position],
            None => {
                let group = Group { inner, rows: 0, tenants: VecDeque::new() };
                self.groups.push(group);
                self.groups.last_mut().expect("it was just put there")
            }
        };
        group.rows += member.rows;
        match group.tenants.iter_mut().find(|own| own.tenant == member.tenant) {
            Some(own) => own.members.push_back(member),
            None => {
                let tenant = member.tenant.clone();
                group.tenants.push_back(Own { tenant, members: VecDeque::from([member]), taken: 0 });
            }
        }
    }

    /// The next batch: of those that are alike, of whom one waits longest. Who has left is dropped on the way.
    pub(super) fn take(&mut self, sizes: &Sizes) -> Vec<Member> {
        let oldest = self.groups.iter().enumerate().min_by_key(|(_, group)| group.oldest());
        let Some((position, _)) = oldest else { return Vec::new() };
        let group = &mut self.groups[position];
        let before = group.rows;
        let batch = group.take(sizes);
        self.rows -= before - group.rows;
        if group.tenants.is_empty() {
            self.groups.swap_remove(position);
        }
        batch
    }
}

impl Group {
    /// Since when the first of them waits.
    fn oldest(&self) -> Option<Instant> {
        self.tenants.iter().filter_map(|own| Some(own.members.front()?.since)).min()
    }

    fn take(&mut self, sizes: &Sizes) -> Vec<Member> {
        // Who is next goes, also with more rows than are wanted.
        let next = self.tenants.front().and_then(|own| own.members.front());
        let mut room = next.map_or(0, |member| member.rows).max(sizes.of(self.rows));
        let mut batch = Vec::new();
        self.tenants.iter_mut().for_each(|own| own.taken = 0);
        // Each time it is the turn of who has the fewest rows in the batch, of those whose next request still fits.
        while let Some(position) = self.next(room) {
            let Some(mut own) = self.tenants.remove(position) else { break };
            if let Some(member) = own.members.pop_front() {
                self.rows -= member.rows;
                if !member.answer.is_closed() {
                    room -= member.rows;
                    own.taken += member.rows;
                    batch.push(member);
                }
            }
            if !own.members.is_empty() {
                self.tenants.push_back(own);
            }
        }
        batch
    }

    fn next(&self, room: u64) -> Option<usize> {
        let fits = |own: &Own| own.members.front().is_some_and(|member| member.rows <= room);
        let tenants = self.tenants.iter().enumerate().filter(|(_, own)| fits(own));
        tenants.min_by_key(|(_, own)| own.taken).map(|(position, _)| position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(max: u64, preferred: &[u64]) -> Vec<u64> {
        Sizes::new(&Batching { max, preferred: preferred.to_vec(), ..Batching::default() }).0
    }

    #[test]
    fn sizes_are_quarters_of_the_largest_or_those_preferred() {
        assert_eq!(sizes(32, &[]), [1, 2, 8, 32]);
        assert_eq!(sizes(8, &[]), [1, 2, 8]);
        assert_eq!(sizes(1, &[]), [1]);
        assert_eq!(sizes(8, &[4, 16, 0]), [1, 4, 8]);
    }

    #[test]
    fn a_batch_is_more_than_half_full_or_filled() {
        let sizes = Sizes(vec![1, 2, 8, 32]);
        let taken = [1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 32, 100].map(|waiting| sizes.of(waiting));
        assert_eq!(taken, [1, 2, 2, 2, 8, 8, 8, 8, 32, 32, 32, 32]);
        assert_eq!([1, 3, 5, 8, 17].map(|rows| sizes.padded(rows)), [1, 8, 8, 8, 32]);
    }
}
