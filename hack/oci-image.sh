#!/bin/bash
# Writes an OCI image of programs on an empty base, with nothing but tar, gzip and sha256sum.
#   oci-image.sh NAME:TAG PROGRAM... OUT.tar
# The programs lie in /, the first is the entrypoint, the user is 65532. The same programs and labels give the same
# digest: every time in it is 1970, every owner root, every list sorted.
#   LABELS  lines KEY=VALUE: labels of the image
#   LIBRARIES=1  the shared libraries of the programs lie in it too; without, each program must be static
#   ARCH    of the programs, as Go names it; of this machine without it
set -euo pipefail
umask 022
. "$(dirname "$0")/lib.sh"
[ $# -ge 3 ] || die "usage: oci-image.sh NAME:TAG PROGRAM... OUT.tar"

name=$1 out=${*: -1}
programs=("${@:2:$#-2}")
# What a runtime makes of a short name; containerd keeps images under the long one only.
case $name in
*.*/* | *:*/* | localhost/*) ;;
*/*) name=docker.io/$name ;;
*) name=docker.io/library/$name ;;
esac
case ${name##*/} in *:*) ;; *) die "$1: give a tag, as in NAME:TAG" ;; esac
case ${ARCH:=$(uname -m)} in x86_64) ARCH=amd64 ;; aarch64) ARCH=arm64 ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root" "$work/image/blobs/sha256"

# archive FOLDER NAME...: a tar on stdout that does not tell who made it, nor when.
archive() {
    tar --directory="$1" --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --create "${@:2}"
}
sha256() { sha256sum "$1" | cut -d' ' -f1; }
# json TEXT: as a JSON string. Labels and names hold no control characters.
json() {
    case $1 in *[[:cntrl:]]*) die "a control character in $1" ;; esac
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}
# blob FILE MEDIATYPE: moves it among the blobs and prints its descriptor, without the closing brace.
blob() {
    local digest size
    digest=$(sha256 "$1")
    size=$(stat -c %s "$1")
    mv "$1" "$work/image/blobs/sha256/$digest"
    printf '{"mediaType":"%s","digest":"sha256:%s","size":%s' "$2" "$digest" "$size"
}

for program in "${programs[@]}"; do
    [ -f "$program" ] || die "$program: no such file"
    if [ -n "${LIBRARIES:-}" ]; then
        ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
            install -D -m 0555 "$(readlink -f "$library")" "$work/root$library"
        done
    # An interpreter is the loader of a dynamic program: the empty base has none.
    elif command -v readelf >/dev/null && readelf --program-headers --wide "$program" 2>/dev/null | grep -q INTERP; then
        die "$program is linked dynamically: it would not start on an empty base"
    fi
    install -m 0555 "$program" "$work/root/"
done
archive "$work/root" $(cd "$work/root" && echo *) >"$work/layer.tar"
diff_id=$(sha256 "$work/layer.tar")
gzip --no-name --best "$work/layer.tar"
layer=$(blob "$work/layer.tar.gz" application/vnd.oci.image.layer.v1.tar+gzip)

labels=
while IFS= read -r label; do
    [ -z "$label" ] || labels+=${labels:+,}$(json "${label%%=*}"):$(json "${label#*=}")
done < <(LC_ALL=C sort -u <<<"${LABELS:-}")
printf '{"architecture":"%s","os":"linux","config":{"User":"65532:65532","Entrypoint":[%s],"Labels":{%s}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$ARCH" "$(json "/${programs[0]##*/}")" "$labels" "$diff_id" >"$work/config"
config=$(blob "$work/config" application/vnd.oci.image.config.v1+json)
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s},"layers":[%s}]}' \
    "$config" "$layer" >"$work/manifest"
manifest=$(blob "$work/manifest" application/vnd.oci.image.manifest.v1+json)

printf '{"imageLayoutVersion":"1.0.0"}' >"$work/image/oci-layout"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":%s,"org.opencontainers.image.ref.name":%s}}]}' \
    "$manifest" "$ARCH" "$(json "$name")" "$(json "${name##*:}")" >"$work/image/index.json"

mkdir -p "$(dirname "$out")"
archive "$work/image" oci-layout index.json blobs >"$out.part"
mv "$out.part" "$out"
digest=${manifest#*sha256:}
say "$(printf '%-28s %5s KiB  sha256:%s' "${name##*/}" $(($(stat -c %s "$out") / 1024)) "${digest%%\"*}")"
