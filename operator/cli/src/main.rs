//! Entry point.

fn main() -> std::process::ExitCode {
    kubectl_sluice::main()
}
