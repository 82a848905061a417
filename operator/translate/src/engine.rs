//! All results, kept up to date: a change makes stale what read what it touched, and only that is computed again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use sluice_snapshot::{Feature, Hash, MAX_UNIT_BYTES, Unit, UnitMap, UnitName, Version, feature};

use crate::{
    assemble::{Holding, Holdings},
    edge::{self, EdgeIntent, IntentError},
    finding::{Finding, FindingReason},
    gateway_api::{attach::Owner, table},
    groups::{self, GroupId, PodRef},
    resolve::{self, Resolved},
    scaling::HpaIntent,
    standing::Standing,
    view::View,
    world::{
        Change, GatewayFacts, Index, Kind, Meta, Object, ObjectId, Part, PodKey, Read, Settings,
        World, key, parent_key, parent_of,
    },
};

/// Something that is computed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Node {
    /// The units and findings of one object.
    Object(ObjectId),
    /// The root unit of one group.
    Group(GroupId),
    /// One part of the routes of a Gateway or ListenerSet, by the key of that parent.
    Part(Arc<str>, Part),
}

/// A result and what it was computed from.
struct Memo {
    reads: BTreeSet<Read>,
    units: BTreeSet<UnitName>,
    findings: Vec<Finding>,
    hpa: Option<HpaIntent>,
    standing: Option<Standing>,
    attached: BTreeMap<String, usize>,
}

/// A unit as sessions send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The hash of the body.
    pub hash: Hash,
    /// The body, shared by all sessions.
    pub body: Bytes,
    /// What a sidecar must have to honour it.
    pub features: Vec<Feature>,
    /// The object it was made from; none for the root units of groups and the tables of listeners.
    pub object: Option<ObjectId>,
    /// The units it needs.
    pub needs: Arc<[UnitName]>,
}

/// What [`Engine::apply`] changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Units that are new or have another body.
    pub units_changed: BTreeSet<UnitName>,
    /// Units that are gone.
    pub units_removed: BTreeSet<UnitName>,
    /// Groups that hold another list of units, with its version; `None`: the group has no pods any more.
    pub groups_changed: BTreeMap<GroupId, Option<Version>>,
    /// Pods that came, went, changed group or changed otherwise.
    pub pods_changed: BTreeSet<PodKey>,
    /// Objects with other findings.
    pub findings_changed: BTreeSet<ObjectId>,
    /// Objects of the Gateway API that stand otherwise now, are another generation, or are gone.
    pub standings_changed: BTreeSet<ObjectId>,
    /// Namespace and name of HorizontalPodAutoscalers that should be otherwise, or not be.
    pub children_changed: BTreeSet<(String, String)>,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The difference that [`Engine::verify`] found. Names only: bodies can hold secrets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the incremental state differs from a full recompute in {0}: this is a bug, please report it"
)]
pub struct Divergence(String);

/// All results.
pub struct Engine {
    world: World,
    memos: HashMap<Node, Memo>,
    readers: HashMap<Read, BTreeSet<Node>>,
    units: BTreeMap<UnitName, Encoded>,
    holdings: Holdings,
    findings: BTreeMap<ObjectId, BTreeMap<Node, Vec<Finding>>>,
    notes: BTreeMap<ObjectId, Vec<Finding>>,
    children: BTreeMap<(String, String), HpaIntent>,
    /// Results that were computed since it began.
    computed: u64,
    /// The parts of each parent's routes, by its key.
    parts: HashMap<Arc<str>, BTreeSet<Part>>,
    /// How many routes attach to each listener, by the key of its owner and by its name.
    attached: HashMap<Arc<str>, BTreeMap<String, usize>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Engine({} units, {} groups)",
            self.units.len(),
            self.holdings.groups().len()
        )
    }
}

impl Engine {
    /// An engine with an empty world.
    pub fn new(settings: Settings) -> Self {
        Self {
            world: World::new(settings),
            memos: HashMap::new(),
            readers: HashMap::new(),
            units: BTreeMap::new(),
            holdings: Holdings::default(),
            findings: BTreeMap::new(),
            notes: BTreeMap::new(),
            children: BTreeMap::new(),
            computed: 0,
            parts: HashMap::new(),
            attached: HashMap::new(),
        }
    }

    /// Everything computed anew from the objects of a world.
    pub fn full(world: &World) -> Self {
        let mut engine = Self::new(world.settings().clone());
        engine.world = world.rebuilt();
        let objects = engine.world.objects().map(|object| object.id());
        let objects = objects
            .filter(|id| resolve::amounts_to_something(id.kind))
            .map(Node::Object);
        let groups = engine.world.groups().cloned().map(Node::Group);
        let mut stale: BTreeSet<Node> = objects.chain(groups).collect();
        let parents: Vec<Arc<str>> = engine.world.parents().map(Into::into).collect();
        for parent in parents {
            engine.repart(&parent, &mut stale);
        }
        engine.recompute(stale, &mut Delta::default());
        engine
    }

    /// Takes changes in, all at once, and computes again what they make stale.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Delta {
        let mut delta = Delta::default();
        let (mut stale, mut changed) = (BTreeSet::new(), BTreeSet::new());
        let mut parents = BTreeSet::new();
        for change in changes {
            let touched = self.world.apply(change);
            for read in &touched.reads {
                let readers = self.readers.get(read).into_iter().flatten();
                // What these say of an edge stands in no unit and no standing: its Gateway is to be looked at.
                if let Read::Object(ObjectId {
                    kind: Kind::ConfigMap | Kind::Config,
                    ..
                }) = read
                {
                    let gateways = readers.clone().filter_map(|reader| match reader {
                        Node::Object(id) if id.kind == Kind::Gateway => Some(id.clone()),
                        Node::Object(_) | Node::Group(_) | Node::Part(..) => None,
                    });
                    changed.extend(gateways);
                }
                stale.extend(readers.cloned());
                if let Read::By(Index::PartsByGateway, parent) = read {
                    parents.insert(Arc::from(parent.as_str()));
                }
                if let Read::Object(id) = read
                    && resolve::amounts_to_something(id.kind)
                {
                    stale.insert(Node::Object(id.clone()));
                    changed.insert(id.clone());
                }
            }
            stale.extend(touched.groups.into_iter().map(Node::Group));
            delta.pods_changed.extend(touched.pods);
        }
        for parent in &parents {
            self.repart(parent, &mut stale);
        }
        self.recompute(stale, &mut delta);
        // One that stands as it did has another generation now, which its status names.
        changed.retain(|id| self.standing(id).is_some());
        delta.standings_changed.append(&mut changed);
        delta
    }

    /// What would be wrong with an object if it were stored now; nothing is changed. For admission.
    pub fn judge(&self, candidate: &Object) -> Vec<Finding> {
        let view = View::with_candidate(&self.world, candidate);
        resolve::resolve(&view, &candidate.id()).findings
    }

    /// Replaces what a source itself has to say about an object or a file: fields nobody knows, files nobody can read.
    pub fn report(&mut self, about: &ObjectId, findings: Vec<Finding>) -> Delta {
        let mut delta = Delta::default();
        if self.notes.get(about).map_or(&[][..], Vec::as_slice) != findings {
            match findings.is_empty() {
                true => drop(self.notes.remove(about)),
                false => drop(self.notes.insert(about.clone(), findings)),
            }
            delta.findings_changed.insert(about.clone());
        }
        delta
    }

    /// Takes in which parts the routes of a parent are in now; those that came or went are stale.
    fn repart(&mut self, parent: &Arc<str>, stale: &mut BTreeSet<Node>) {
        let now: BTreeSet<Part> = self.world.parts_of(parent).into_iter().collect();
        let before = self.parts.remove(parent).unwrap_or_default();
        let other = now.symmetric_difference(&before);
        stale.extend(other.map(|part| Node::Part(parent.clone(), *part)));
        if !now.is_empty() {
            self.parts.insert(parent.clone(), now);
        }
    }

    fn recompute(&mut self, stale: BTreeSet<Node>, delta: &mut Delta) {
        let mut groups = BTreeSet::new();
        for node in stale {
            if let Node::Group(group) = &node {
                groups.insert(group.clone());
            }
            self.computed += 1;
            match self.compute(&node) {
                Some((resolved, reads)) => self.accept(node, resolved, reads, delta),
                None => self.forget(&node, delta),
            }
        }
        self.reassemble(groups, delta);
    }

    /// `None`: there is no such object or group any more.
    fn compute(&self, node: &Node) -> Option<(Resolved, BTreeSet<Read>)> {
        let view = View::new(&self.world);
        let resolved = match node {
            Node::Object(id) => {
                self.world.object(id)?;
                resolve::resolve(&view, id)
            }
            Node::Group(group) => {
                self.world.pods_of(group).next()?;
                let (inbound, findings) = groups::inbound(&view, group);
                Resolved {
                    units: BTreeMap::from([(group.inbound(), Unit::Inbound(inbound))]),
                    findings,
                    ..Resolved::default()
                }
            }
            Node::Part(parent, part) => {
                if !self.world.has_part(parent, *part) {
                    return None;
                }
                let (namespace, name, set) = parent_of(parent)?;
                let owner = Owner {
                    namespace,
                    name,
                    set,
                };
                table::resolve(&view, owner, *part)
            }
        };
        Some((resolved, view.into_reads()))
    }

    fn accept(&mut self, node: Node, resolved: Resolved, reads: BTreeSet<Read>, delta: &mut Delta) {
        let Resolved {
            units,
            mut findings,
            hpa,
            mut standing,
            attached,
        } = resolved;
        let object = match &node {
            Node::Object(id) => Some(id.clone()),
            Node::Group(_) | Node::Part(..) => None,
        };
        if let (Some(id), Some(standing)) = (&object, &mut standing) {
            self.count(id, standing);
        }
        let mut made = BTreeSet::new();
        for (name, unit) in units {
            let encoded = encode(&self.world, object.clone(), &unit);
            if encoded.body.len() > MAX_UNIT_BYTES {
                // `resolve` has put what denies in its place where there is such a thing: what arrives here has none.
                if let Some(id) = &object {
                    let what = format!(
                        "{name} takes {} bytes of {MAX_UNIT_BYTES}",
                        encoded.body.len()
                    );
                    findings.push(Finding::new(id, FindingReason::TooLarge, None, &what));
                }
                continue;
            }
            if self.units.get(&name) != Some(&encoded) {
                delta.units_removed.remove(&name);
                delta.units_changed.insert(name.clone());
                self.units.insert(name.clone(), encoded);
            }
            made.insert(name);
        }
        for read in &reads {
            self.readers
                .entry(read.clone())
                .or_default()
                .insert(node.clone());
        }
        let memo = Memo {
            reads,
            units: made,
            findings,
            hpa,
            standing,
            attached,
        };
        let old = self.memos.get(&node);
        let gone: Vec<UnitName> = old
            .map(|old| old.units.difference(&memo.units).cloned().collect())
            .unwrap_or_default();
        let unread: Vec<Read> = old
            .map(|old| old.reads.difference(&memo.reads).cloned().collect())
            .unwrap_or_default();
        self.drop_units(gone, delta);
        self.unread(&node, &unread);
        let (old_findings, old_hpa, old_standing, old_attached) = match self.memos.remove(&node) {
            Some(old) => (old.findings, old.hpa, old.standing, old.attached),
            None => (Vec::new(), None, None, BTreeMap::new()),
        };
        if let Some(id) = object
            && old_standing != memo.standing
        {
            delta.standings_changed.insert(id);
        }
        self.file(&node, &old_findings, &memo.findings, delta);
        self.raise(old_hpa, memo.hpa.clone(), delta);
        if let Node::Part(parent, _) = &node {
            self.recount(parent, &old_attached, &memo.attached, delta);
        }
        self.memos.insert(node, memo);
    }

    /// Writes into the standing of a Gateway or ListenerSet how many routes its listeners have.
    fn count(&self, id: &ObjectId, standing: &mut Standing) {
        let Standing::Gateway { listeners, .. } = standing else {
            return;
        };
        let parent = parent_key(&id.name, id.kind == Kind::ListenerSet);
        let counts = self.attached.get(&*key(&id.namespace, &parent));
        for listener in listeners.iter_mut().filter(|listener| listener.served) {
            let count = counts.and_then(|counts| counts.get(&listener.name));
            let count = count.copied().unwrap_or_default();
            listener.attached_routes = u32::try_from(count).unwrap_or(u32::MAX);
        }
    }

    /// Takes in that a part attaches other numbers of routes to the listeners of a parent.
    fn recount(
        &mut self,
        parent: &Arc<str>,
        old: &BTreeMap<String, usize>,
        new: &BTreeMap<String, usize>,
        delta: &mut Delta,
    ) {
        if old == new {
            return;
        }
        let counts = self.attached.entry(parent.clone()).or_default();
        for (listener, more) in new {
            *counts.entry(listener.clone()).or_default() += more;
        }
        for (listener, less) in old {
            if let Some(count) = counts.get_mut(listener) {
                *count -= less;
            }
        }
        counts.retain(|_, count| *count > 0);
        if counts.is_empty() {
            self.attached.remove(parent);
        }
        let Some((namespace, name, set)) = parent_of(parent) else {
            return;
        };
        let kind = match set {
            true => Kind::ListenerSet,
            false => Kind::Gateway,
        };
        let id = ObjectId::new(kind, namespace, name);
        let node = Node::Object(id.clone());
        let standing = self.memos.get(&node).and_then(|memo| memo.standing.clone());
        if let Some(mut standing) = standing {
            self.count(&id, &mut standing);
            if let Some(memo) = self.memos.get_mut(&node)
                && memo.standing.as_ref() != Some(&standing)
            {
                memo.standing = Some(standing);
                delta.standings_changed.insert(id);
            }
        }
    }

    fn forget(&mut self, node: &Node, delta: &mut Delta) {
        let Some(Memo {
            reads,
            units,
            findings,
            hpa,
            standing,
            attached,
        }) = self.memos.remove(node)
        else {
            return;
        };
        if let (Node::Object(id), Some(_)) = (node, standing) {
            delta.standings_changed.insert(id.clone());
        }
        self.drop_units(units, delta);
        let reads: Vec<Read> = reads.into_iter().collect();
        self.unread(node, &reads);
        self.file(node, &findings, &[], delta);
        self.raise(hpa, None, delta);
        if let Node::Part(parent, _) = node {
            self.recount(parent, &attached, &BTreeMap::new(), delta);
        }
    }

    fn drop_units(&mut self, names: impl IntoIterator<Item = UnitName>, delta: &mut Delta) {
        for name in names {
            self.units.remove(&name);
            delta.units_changed.remove(&name);
            delta.units_removed.insert(name);
        }
    }

    fn unread(&mut self, node: &Node, reads: &[Read]) {
        for read in reads {
            if let Some(readers) = self.readers.get_mut(read) {
                readers.remove(node);
                if readers.is_empty() {
                    self.readers.remove(read);
                }
            }
        }
    }

    /// Moves a node's findings to the objects they are about.
    fn file(&mut self, node: &Node, old: &[Finding], new: &[Finding], delta: &mut Delta) {
        if old == new {
            return;
        }
        for finding in old {
            let id = object_of(finding);
            if let Some(nodes) = self.findings.get_mut(&id) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.findings.remove(&id);
                }
            }
            delta.findings_changed.insert(id);
        }
        for finding in new {
            let id = object_of(finding);
            let of_node = self
                .findings
                .entry(id.clone())
                .or_default()
                .entry(node.clone());
            of_node.or_default().push(finding.clone());
            delta.findings_changed.insert(id);
        }
    }

    fn raise(&mut self, old: Option<HpaIntent>, new: Option<HpaIntent>, delta: &mut Delta) {
        if old == new {
            return;
        }
        let name = |hpa: &HpaIntent| (hpa.namespace.clone(), hpa.name.clone());
        if let Some(old) = old {
            // Another route may have taken the target over in the same batch.
            if self.children.get(&name(&old)) == Some(&old) {
                self.children.remove(&name(&old));
            }
            delta.children_changed.insert(name(&old));
        }
        if let Some(new) = new {
            delta.children_changed.insert(name(&new));
            self.children.insert(name(&new), new);
        }
    }

    /// Brings the lists of groups up to date; `recomputed` are those whose root was computed again.
    fn reassemble(&mut self, recomputed: BTreeSet<GroupId>, delta: &mut Delta) {
        let memos = &self.memos;
        let groups = recomputed.into_iter().map(|group| {
            let there = memos.contains_key(&Node::Group(group.clone()));
            (group, there)
        });
        let units = &self.units;
        let known = |name: &UnitName| {
            let unit = units.get(name)?;
            Some((unit.hash.clone(), unit.needs.clone()))
        };
        let changed = delta.units_changed.iter().chain(&delta.units_removed);
        delta.groups_changed = self.holdings.update(changed, groups, &known);
    }

    /// Compares with a full recompute.
    ///
    /// # Errors
    /// [`Divergence`] names what differs: a bug of translation.
    pub fn verify(&self) -> Result<(), Divergence> {
        let full = Self::full(&self.world);
        let differs = |what: String| Err(Divergence(what));
        if let Some(name) = first_difference(&self.units, &full.units) {
            return differs(format!("unit {name}"));
        }
        if let Some(group) = first_difference(self.holdings.groups(), full.holdings.groups()) {
            return differs(format!("the list of group {group}"));
        }
        if let Some(id) = first_difference(&self.findings, &full.findings) {
            return differs(format!("the findings of {id}"));
        }
        if let Some((namespace, name)) = first_difference(&self.children, &full.children) {
            return differs(format!("the HorizontalPodAutoscaler {namespace}/{name}"));
        }
        let (ours, theirs) = (self.all_standings(), full.all_standings());
        if let Some(id) = first_difference(&ours, &theirs) {
            return differs(format!("how {id} stands"));
        }
        match self.world.groups().eq(full.world.groups()) {
            true => Ok(()),
            false => differs("the groups".into()),
        }
    }

    /// How many results were computed since it began: what a change costs, whatever the machine.
    pub fn computed(&self) -> u64 {
        self.computed
    }

    /// The objects.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Every group that has a pod.
    pub fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.holdings.groups().keys()
    }

    /// What a group must hold.
    pub fn group_units(&self, group: &GroupId) -> Option<&UnitMap<Hash>> {
        self.holdings.groups().get(group).map(Holding::units)
    }

    /// The version of what a group must hold.
    pub fn group_version(&self, group: &GroupId) -> Option<Version> {
        let holding = self.holdings.groups().get(group)?;
        Some(holding.version().clone())
    }

    /// One unit.
    pub fn unit(&self, name: &UnitName) -> Option<&Encoded> {
        self.units.get(name)
    }

    /// Every unit, by name.
    pub fn units(&self) -> impl Iterator<Item = (&UnitName, &Encoded)> {
        self.units.iter()
    }

    /// The group of a pod; `None`: the operator knows no such pod.
    pub fn groups_of_pod(&self, namespace: &str, pod: &str) -> Option<GroupId> {
        let (group, _) = self.world.pod(&PodKey::new(namespace, pod))?;
        Some(group.clone())
    }

    /// A pod as identity checks it.
    pub fn pod(&self, namespace: &str, pod: &str) -> Option<&PodRef> {
        self.world
            .pod(&PodKey::new(namespace, pod))
            .map(|(_, pod)| pod)
    }

    /// The pods of a group, by name.
    pub fn pods_of(&self, group: &GroupId) -> Vec<PodRef> {
        self.world.pods_of(group).cloned().collect()
    }

    /// What is wrong with an object: translation's findings, then the sources'.
    pub fn findings(&self, id: &ObjectId) -> Vec<&Finding> {
        let found = self
            .findings
            .get(id)
            .into_iter()
            .flat_map(BTreeMap::values)
            .flatten();
        found
            .chain(self.notes.get(id).into_iter().flatten())
            .collect()
    }

    /// How an object of the Gateway API stands; `None`: it is of no such kind, not there, or none of ours.
    pub fn standing(&self, id: &ObjectId) -> Option<&Standing> {
        self.memos.get(&Node::Object(id.clone()))?.standing.as_ref()
    }

    /// Every object of the Gateway API that is ours, in no order.
    pub fn standings(&self) -> impl Iterator<Item = (&ObjectId, &Standing)> {
        self.memos.iter().filter_map(|(node, memo)| match node {
            Node::Object(id) => Some((id, memo.standing.as_ref()?)),
            Node::Group(_) | Node::Part(..) => None,
        })
    }

    /// Every Gateway and ListenerSet of ours.
    pub fn owners_of_listeners(&self) -> impl Iterator<Item = &ObjectId> {
        let gateways = self.world.gateways().map(|facts| &facts.id);
        let owners = gateways.chain(self.world.listener_sets());
        owners.filter(|id| self.standing(id).is_some())
    }

    fn all_standings(&self) -> BTreeMap<&ObjectId, &Standing> {
        self.standings().collect()
    }

    /// Every object that has findings.
    pub fn troubled(&self) -> BTreeSet<&ObjectId> {
        self.findings.keys().chain(self.notes.keys()).collect()
    }

    /// Every one of the three resources that there is.
    pub fn resources(&self) -> impl Iterator<Item = &ObjectId> {
        self.world.resources()
    }

    /// Uid, age and generation of one of the three resources, as its results were computed from them.
    pub fn meta(&self, id: &ObjectId) -> Option<&Meta> {
        self.world.meta(id)
    }

    /// The HorizontalPodAutoscalers that should exist, by namespace and name.
    pub fn children(&self) -> &BTreeMap<(String, String), HpaIntent> {
        &self.children
    }

    /// The edges that should run, by the Gateway's namespace and name; an error where what runs should stay as it is.
    pub fn edges(&self) -> BTreeMap<(String, String), Result<EdgeIntent, IntentError>> {
        let view = View::new(&self.world);
        let edge = |facts: &GatewayFacts| {
            let name = (facts.id.namespace.to_string(), facts.id.name.to_string());
            Some((name, edge::intent(&view, facts)?))
        };
        self.world.gateways().filter_map(edge).collect()
    }

    /// The groups whose pods hold a resource. A Conflicted route is held by none.
    pub fn groups_holding(&self, id: &ObjectId) -> Vec<GroupId> {
        let Some(name) = resolve::unit_of(id) else {
            return Vec::new();
        };
        self.holdings.holders(&name).cloned().collect()
    }

    /// What a pod of `group` must have acknowledged for the resource to be live there: its own unit, and those that put
    /// it into force there (the table that lists a route, the routes that name a policy or a ShardSet).
    pub fn policy_units(&self, id: &ObjectId, group: &GroupId) -> Vec<(UnitName, Hash)> {
        let (Some(own), Some(held)) = (resolve::unit_of(id), self.group_units(group)) else {
            return Vec::new();
        };
        let into_force = self.holdings.needed_by(&own);
        let into_force = into_force.filter(|name| name.kind().is_policy());
        let mut units: Vec<(UnitName, Hash)> = into_force
            .chain([&own])
            .filter_map(|name| Some((name.clone(), held.get(name)?.clone())))
            .collect();
        units.sort();
        units
    }
}

fn encode(world: &World, object: Option<ObjectId>, unit: &Unit) -> Encoded {
    let body = unit.encode();
    let hash = match unit {
        Unit::Secret(_) => Hash::keyed(&world.settings().hash_key, &body),
        _ => Hash::of(&body),
    };
    Encoded {
        hash,
        body,
        features: feature::needed(unit),
        object,
        needs: unit.needs().into(),
    }
}

fn object_of(finding: &Finding) -> ObjectId {
    let object = &finding.object;
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == object.kind);
    ObjectId::new(kind.unwrap_or(Kind::File), &object.namespace, &object.name)
}

fn first_difference<'a, K: Ord, V: PartialEq>(
    a: &'a BTreeMap<K, V>,
    b: &'a BTreeMap<K, V>,
) -> Option<&'a K> {
    let changed = a.iter().find(|(key, value)| b.get(key) != Some(value));
    let missing = || b.keys().find(|key| !a.contains_key(key));
    changed.map(|(key, _)| key).or_else(missing)
}
