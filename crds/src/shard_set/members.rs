//! The shards and who serves them.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{DnsLabel, ServiceRef, choice};

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// Name of the shard.
    pub name: DnsLabel,
    /// Who serves it: exactly one Primary and any number of Replicas.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.exists_one(m, m.role == 'Primary')").message("a shard has exactly one member with role Primary")
    )]
    pub members: Vec<ShardMember>,
}

impl Shard {
    /// The member that takes writes; none only where the schema's rule was not in force.
    pub fn primary(&self) -> Option<&ShardMember> {
        self.members
            .iter()
            .find(|member| member.role == MemberRole::Primary)
    }

    /// The members that take reads only.
    pub fn replicas(&self) -> impl Iterator<Item = &ShardMember> {
        self.members
            .iter()
            .filter(|member| member.role == MemberRole::Replica)
    }
}

choice! {
    /// What a member does.
    pub enum MemberRole {
        /// Takes writes, and reads that go to no replica.
        Primary,
        /// Takes reads.
        Replica,
    }
}

/// One server of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardMember {
    /// Name of the member.
    pub name: DnsLabel,
    /// What the member does.
    pub role: MemberRole,
    /// The Service that reaches it.
    pub backend_ref: ServiceRef,
}
