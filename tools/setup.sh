# Sourced by ./run, ./test and .ci/run: installs what is missing, fetches the npm packages of the lock file, builds.
# Says what it does; does nothing when there is nothing to do.

packages_run="build-essential meson ninja-build pkg-config git ca-certificates
  librocksdb-dev libuv1-dev node-llhttp libpg-query-dev libprotobuf-c-dev libssl-dev nettle-dev libjansson-dev libyaml-dev libarchive-dev libseccomp-dev"
packages_test="libcmocka-dev postgresql-15 chromium fonts-dejavu-core curl util-linux"
packages_ci="clang clang-format clang-tidy libclang-rt-14-dev cppcheck gcovr mold"

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

missing_packages() {
    command -v dpkg-query >/dev/null 2>&1 || die "this is no Debian system; needed are the libraries behind these Debian packages: $*"
    for p in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || printf '%s ' "$p"
    done
}

# need_packages NAME…: installs those that are missing, as root; otherwise says which.
need_packages() {
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || die "missing Debian packages, install them as root: apt-get install $missing"
    say "installing $missing"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# Node 18 or newer with npm: what is there, or Debian's.
need_node() {
    if command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 &&
        [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 18 ]; then
        return 0
    fi
    need_packages nodejs npm
}

need_npm_packages() {
    # npm ci empties the folder first, through a link too, and with it what other checkouts use.
    if [ -L node_modules ]; then
        say "node_modules is a link: what it points to is used as it is"
        return 0
    fi
    if [ node_modules/.package-lock.json -nt package-lock.json ]; then
        return 0
    fi
    say "npm ci (libduckdb and the test tools, by lock file, no install scripts)"
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    touch node_modules/.package-lock.json
}

# The example chat: its own packages, then the page that Vite builds, each only when older than what it comes from.
need_chat() {
    (
        cd examples/chat
        if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
            say "npm ci for examples/chat (by lock file, no install scripts)"
            npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
            touch node_modules/.package-lock.json
        fi
        if [ ! -f dist/index.html ] || [ -n "$(find src index.html public vite.config.ts package-lock.json -newer dist/index.html)" ]; then
            say "building examples/chat"
            npm run --silent build
        fi
    )
}

# build DIR [meson options…]
build() {
    dir=$1
    shift
    if [ ! -f "$dir/build.ninja" ]; then
        say "configuring $dir"
        meson setup "$dir" "$@" >"$dir.log" 2>&1 || { cat "$dir.log"; exit 1; }
        rm -f "$dir.log"
    fi
    say "building $dir"
    ninja -C "$dir" --quiet
}
