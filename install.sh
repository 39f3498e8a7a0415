#!/bin/sh
# Installs the four commands of this checkout for all users, belonging to root and starting fast: ./install.sh, as yourself.
# ./install.sh --remove takes them away again. PREFIX=/opt puts them below /opt instead of /usr/local, also for --remove.
#
# JBang compiles them as you, into a temporary directory, which root copies to $PREFIX/lib/knockknock. To start fast they do
# without the signature of Bouncy Castle's jar, whose hash is checked here once instead, and have an archive of the classes
# that the JVM loads at each start. For that each of them is run once here, in a network of its own.
set -eu
umask 022
cd "$(dirname "$0")"
prefix=${PREFIX:-/usr/local}
lib=$prefix/lib/knockknock
commands='knockknock-genprofile knockknock-daemon knockknock-proxy knockknock'
bouncycastle=12d2d3dd82a9ec15e92ec7c7943ee64f6097c6dc12c07e984f1693b77565b9aa # bcprov-jdk18on-1.87.jar on Maven Central

fail() { echo "knockknock: $*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi; }
options() { sed -n 's,^//RUNTIME_OPTIONS ,,p' "$1.java"; } # of a command's JVM
arguments() { # of a command's run for its archive: what it loads before it has to do with another host
    case $1 in
    knockknock-genprofile) echo --dir "$build/server" 127.0.0.1 1 ;;
    knockknock-daemon) echo --dir "$build/server" --log /dev/null --check ;;
    knockknock) echo -p 1 127.0.0.1 ;;
    *) echo --help ;;
    esac
}

case $prefix in
*[!A-Za-z0-9/._-]* | [!/]*) fail "PREFIX must be an absolute path of letters, digits, '.', '_' and '-'" ;;
esac
if [ "${1-}" = --remove ]; then
    for command in $commands; do as_root rm -f "$prefix/bin/$command"; done
    as_root rm -rf "$lib"
    exit
fi
[ $# = 0 ] || fail "usage: ./install.sh [--remove]"
command -v jbang > /dev/null || PATH=$PWD/tests:$PATH
jdk=$(readlink -f "$(jbang --quiet jdk home 25+)")
above=$jdk
while [ "$above" != / ]; do # who may write to a directory may put another JDK there
    above=$(dirname "$above")
    [ -z "$(find "$above" -maxdepth 0 ! -user root -o ! -perm -1000 -perm /022)" ] || fail "root cannot trust $jdk, as $above is not root's alone"
done
[ -z "$(find "$jdk" ! -user root -o ! -type l -perm /022)" ] \
    || fail "$jdk is not root's alone, so root must not run it: install a JDK 25 for all users, and set JAVA_HOME to it"

build=$(mktemp -d /tmp/knockknock.XXXXXX)
trap 'rm -rf "$build" 2> /dev/null || as_root rm -rf "$build"' EXIT
trap 'exit 1' HUP INT TERM
for command in $commands; do
    jbang --quiet export portable --force -O "$build/knockknock/$command.jar" "$command.java"
done
signed=$(echo "$build"/knockknock/lib/bcprov-*.jar)
echo "$bouncycastle  $signed" | sha256sum --check --quiet || fail "this is not the Bouncy Castle that is named here"
(cd "$build" && "$jdk/bin/jar" --extract --file "$signed" org && "$jdk/bin/jar" --create --file "$signed" org)

mkdir "$build/bin" "$build/.knockknock"
for command in $commands; do
    cat > "$build/bin/$command" << END
#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
case "\$(id -u) \${1-}" in
0\\ * | *\\ -h | *\\ --help | *\\ -V | *\\ --version) ;;
*) exec /usr/bin/sudo -- $prefix/bin/$command "\$@" ;; # one start of a JVM instead of two
esac
exec $lib/jdk/bin/java $(options $command) -Xlog:disable -Xlog:all=error:stderr \\
    -XX:SharedArchiveFile=$lib/$command.jsa -jar $lib/$command.jar "\$@"
END
done
as_root mkdir -p "$prefix/bin" "$prefix/lib"
as_root rm -rf "$lib"
as_root cp -r "$build/knockknock" "$prefix/lib/"
as_root ln -s "$jdk" "$lib/jdk"
for command in $commands; do
    # a --check may well find a problem here
    as_root unshare --net sh -c 'ip link set lo up && { "$@" > /dev/null || true; }' sh \
        env -u SUDO_USER "$jdk/bin/java" $(options $command) -Duser.home="$build" -XX:DumpLoadedClassList="$build/$command.list" \
        -jar "$lib/$command.jar" $(arguments $command)
    [ $command != knockknock-genprofile ] || as_root mv "$build/server/profiles/127.0.0.1" "$build/.knockknock/"
    # picocli's classes, being of Java 5, can be in an archive only if nothing else in it has linked them
    grep -vE '^@(cp|lambda-proxy) .*(picocli|Cli|Knockknock)' "$build/$command.list" > "$build/list"
    as_root "$jdk/bin/java" $(options $command) -Xlog:disable -Xshare:dump -XX:SharedClassListFile="$build/list" \
        -XX:SharedArchiveFile="$lib/$command.jsa" -cp "$lib/$command.jar"
done
as_root install -m 755 "$build"/bin/* "$prefix/bin/"
echo "installed in $prefix/bin: $commands"
