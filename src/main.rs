//! The `weft` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    weft::cli::main(std::env::args_os())
}
