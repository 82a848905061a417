//! Manifests from text to objects and findings.
