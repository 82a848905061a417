//! How many pods a route's parents run on: the HorizontalPodAutoscaler the operator keeps, in autoscaling/v2's words.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    ApiVersion, CronText, DnsLabel, Duration, KindName, ObjectName, Quantity, TimeZoneName, choice,
    union,
};

/// What the HorizontalPodAutoscaler of a workload looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= self.maxReplicas")
    .message("minReplicas cannot be above maxReplicas"),
    validation = Rule::new("!has(self.schedules) || self.schedules.all(s, s.minReplicas <= self.maxReplicas)")
    .message("minReplicas of a schedule cannot be above maxReplicas"))]
pub struct Scaling {
    /// The workload to scale; its `replicas` is never written by Sluice itself.
    pub scale_target_ref: ScaleTargetRef,
    /// Fewest pods; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub min_replicas: Option<i32>,
    /// Most pods.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_replicas: i32,
    /// What drives the number of pods.
    #[schemars(length(min = 1, max = 8))]
    pub metrics: Vec<ScalingMetric>,
    /// How fast it follows, as autoscaling/v2 has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<ScalingBehavior>,
    /// Known peaks: while one lasts, `minReplicas` is at least its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub schedules: Vec<ScalingSchedule>,
}

/// A known peak. It begins at every time that `cron` names and lasts for `duration` of elapsed time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingSchedule {
    /// Name of the schedule.
    pub name: DnsLabel,
    /// When it begins: minute, hour, day of month, month, day of week.
    pub cron: CronText,
    /// IANA time zone of `cron`; UTC by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZoneName>,
    /// How long it lasts, from 1m to 168h.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('168h')")
        .message("a schedule lasts between 1m and 168h"))]
    pub duration: Duration,
    /// Fewest pods while it lasts.
    #[schemars(range(min = 1, max = 10_000))]
    pub min_replicas: i32,
}

/// The workload to scale.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct ScaleTargetRef {
    /// API version of the workload.
    pub api_version: ApiVersion,
    /// Kind of the workload.
    pub kind: KindName,
    /// Name of the workload.
    pub name: ObjectName,
}

union! {
    /// One number that drives the number of pods.
    pub struct ScalingMetric, ScalingMetricType, ScalingSignal {}
    /// Requests a second, per pod.
    RequestsPerSecond = "RequestsPerSecond" => requests_per_second = "requestsPerSecond": AverageTarget;
    /// Requests that are being answered at a time, per pod.
    InFlight = "InFlight" => in_flight = "inFlight": AverageTarget;
}

/// The value per pod that is aimed at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AverageTarget {
    /// The value, averaged over the pods.
    pub average_value: Quantity,
}

/// How fast the number of pods follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingBehavior {
    /// Upwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// Downwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// How fast the number of pods follows in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// Seconds of past recommendations that are taken into account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3_600))]
    pub stabilization_window_seconds: Option<i32>,
    /// Which policy counts; Max by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<SelectPolicy>,
    /// How much may change in which time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub policies: Vec<ScalingPolicy>,
}

choice! {
    /// Which policy of a direction counts.
    pub enum SelectPolicy {
        /// The one that allows the largest change.
        Max,
        /// The one that allows the smallest change.
        Min,
        /// None: no change in this direction.
        Disabled,
    }
}

choice! {
    /// What a policy counts in.
    pub enum ScalingPolicyType {
        /// Pods.
        Pods,
        /// Percent of the pods there are.
        Percent,
    }
}

/// How much may change in which time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingPolicy {
    /// What the value counts in.
    #[serde(rename = "type")]
    pub kind: ScalingPolicyType,
    /// How much may change.
    #[schemars(range(min = 1, max = 10_000))]
    pub value: i32,
    /// In how many seconds.
    #[schemars(range(min = 1, max = 1_800))]
    pub period_seconds: i32,
}
