# Shared by the scripts of this folder; sourced, never run. Nothing here builds or installs anything.
# Convention: what a caller reads goes to stdout, everything for people to stderr.

export HOME=${HOME:-/root}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/sluice

# Toolchains are often installed without touching the PATH of a non-login shell.
for dir in /usr/local/go/bin "$HOME/go/bin" "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/sbin /sbin; do
    case ":$PATH:" in *":$dir:"*) ;; *) [ -d "$dir" ] && PATH="$PATH:$dir" ;; esac
done
export PATH

say() { echo "$*" >&2; }
die() { say "error: $*"; exit 1; }

# once DIR COMMAND...: makes DIR by running COMMAND with a scratch folder as its last argument and renaming that
# folder at the end, so that an interrupted build leaves nothing that looks finished.
once() {
    local dir=$1 scratch
    shift
    [ -e "$dir" ] && return
    mkdir -p "$(dirname "$dir")"
    scratch=$(mktemp -d "$dir.XXXXXX")
    "$@" "$scratch" || { rm -rf "$scratch"; return 1; }
    # Two builds at once: the one that is late throws its own away.
    mv -T "$scratch" "$dir" 2>/dev/null || rm -rf "$scratch"
}

# programs PACKAGE...: builds their programs as PROFILE says and prints the folder. release: static, as shipped; dev:
# static, in a third of the time; test: those of `make test`, there at once after it, with shared libraries.
programs() {
    case ${PROFILE:-release} in
    test)
        cargo build --quiet --locked --workspace --bins >&2
        echo "${CARGO_TARGET_DIR:-$ROOT/target}/debug"
        ;;
    *) "$ROOT/hack/static.sh" "$@" ;;
    esac
}
