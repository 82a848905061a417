//! The CustomResourceDefinitions as an API server is given them.
