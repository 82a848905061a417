//! Translation: a whole world, and one change in it; then the sidecar's compilation of what comes out.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use sluice_pipeline::Program;
use sluice_snapshot::UnitName;
use sluice_translate::Change;

use super::{Bench, Size};
use crate::world::{
    self, NAMESPACE,
    catalog::{self, Catalog},
};

/// The route that changes.
const CHANGED: usize = 7;

pub(super) fn benches(size: Size) -> Result<Vec<Bench>> {
    let Size { routes, groups } = size;
    let catalog = Catalog { routes, groups };
    let documents = catalog.documents();
    let changes = world::changes(&documents)?;
    let engine = world::engine(&documents)?;
    ensure!(
        engine.groups().count() == groups,
        "{} groups came out, not {groups}",
        engine.groups().count()
    );
    let all = move || {
        let mut engine = world::empty();
        let delta = engine.apply(changes.iter().cloned());
        delta.groups_changed.len() == groups
            && delta.units_changed.len() > routes
            && delta.findings_changed.is_empty()
    };

    let [old, new] = versions(&catalog)?;
    let (mut engine, mut turn) = (engine, 0);
    let changed = UnitName::route(NAMESPACE, &catalog::name_of(CHANGED));
    let one = move || {
        turn += 1;
        let delta = engine.apply([if turn % 2 == 1 {
            new.clone()
        } else {
            old.clone()
        }]);
        delta.units_changed.iter().eq([&changed]) && delta.groups_changed.len() == 1
    };
    Ok(vec![
        Bench::new(
            "translate, everything",
            format!(
                "{routes} ApiRoutes of 3 rules with API keys over {groups} groups, {groups} RateLimitPolicies: objects to encoded units"
            ),
            all,
        ),
        Bench::new(
            "translate, one change",
            "one of these ApiRoutes edited: one unit and the version of one group change",
            one,
        ),
        compile(size)?,
    ])
}

/// The route before and after its edit.
fn versions(catalog: &Catalog) -> Result<[Change; 2]> {
    let mut both = world::changes(&[catalog.route(CHANGED, "1"), catalog.route(CHANGED, "2")])?;
    let (new, old) = (
        both.pop().context("two manifests")?,
        both.pop().context("two manifests")?,
    );
    Ok([old, new])
}

/// What a sidecar does when one route among many changes.
fn compile(size: Size) -> Result<Bench> {
    let catalog = Catalog {
        routes: size.routes,
        groups: 1,
    };
    let mut engine = world::engine(&catalog.documents())?;
    let group = engine.groups().next().context("no group")?.clone();
    let before = world::units(&engine, &group)?;
    let [_, new] = versions(&catalog)?;
    engine.apply([new]);
    let sets = [before, world::units(&engine, &group)?];
    let mut program = Arc::new(Program::compile(&sets[0], None)?);
    let mut turn = 0;
    Ok(Bench::new(
        "compile in the sidecar, one change",
        format!(
            "one of {} ApiRoutes of a group edited: units to program, the rest reused",
            size.routes
        ),
        move || {
            turn += 1;
            let set = &sets[turn % 2];
            let Ok(next) = Program::compile(set, Some(&program)) else {
                return false;
            };
            let moved = next.version() != program.version();
            program = Arc::new(next);
            moved
        },
    ))
}
