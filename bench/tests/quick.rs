//! Every operation that `make bench` measures gives the result it is measured for.

#[test]
fn every_operation_gives_its_result() {
    sluice_bench::quick().expect("no operation fails");
}
