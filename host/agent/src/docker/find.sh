# Finds an interpreter: $1 = its kind, the others = where it may be. Tells the path and the version, a line each.
kind=$1
shift
for candidate in "$@"; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    case $kind in
        python)
            version=$("$path" -c 'import sys; assert sys.version_info >= (3, 8); print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
            path=$("$path" -c 'import sys; print(sys.executable)' 2>/dev/null) || continue
            ;;
        node)
            version=$("$path" -p process.versions.node 2>/dev/null) || continue
            ;;
        *)
            version=$("$path" -c 'echo "$BASH_VERSION"' 2>/dev/null) || continue
            ;;
    esac
    printf '%s\n%s\n' "$path" "$version"
    exit 0
done
exit 1
