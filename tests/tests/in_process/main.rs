//! The tier without a cluster: the product's programs on addresses of their own, fed from files. One module per
//! concern; this file lists them.

mod clients;
