#!/bin/sh
# Installs the four commands of this checkout for all users, belonging to root and starting fast: ./install.sh, as yourself.
# ./install.sh --remove takes them away again. PREFIX=/opt puts them below /opt instead of /usr/local.
#
# JBang compiles them as you, into a temporary directory, which root copies to $PREFIX/lib/knockknock. To start fast they do
# without the signature of Bouncy Castle's jar, which is verified here once instead of at each start, and have an archive of
# the classes that the JVM loads at each start. For that each of them is run once here, in a network of its own.
set -eu
umask 022
cd "$(dirname "$0")"
prefix=${PREFIX:-/usr/local}
lib=$prefix/lib/knockknock
commands='knockknock-genprofile knockknock-daemon knockknock-proxy knockknock'

fail() { echo "knockknock: $*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi; }
arguments() { # of a command's run for its archive: what it loads before it has to do with another host
    case $1 in
    knockknock-genprofile) echo --dir "$build/server" 127.0.0.1 1 ;;
    knockknock-daemon) echo --dir "$build/server" --log /dev/null --check ;;
    knockknock) echo -p 1 127.0.0.1 ;;
    *) echo --help ;;
    esac
}

if [ "${1-}" = --remove ]; then
    for command in $commands; do as_root rm -f "$prefix/bin/$command"; done
    as_root rm -rf "$lib"
    exit
fi
[ $# = 0 ] || fail "usage: ./install.sh [--remove]"
command -v jbang > /dev/null || PATH=$PWD/tests:$PATH
jdk=$(jbang --quiet jdk home 25+)
[ "$(stat -Lc %u "$jdk/bin/java")" = 0 ] \
    || fail "$jdk does not belong to root, and root must not run it: install a JDK 25 for all users, and set JAVA_HOME to it"

build=$(mktemp -d)
trap 'as_root rm -rf "$build"' EXIT
for command in $commands; do
    jbang --quiet export portable --force -O "$build/lib/knockknock/$command.jar" "$command.java"
done
signed=$(echo "$build"/lib/knockknock/lib/bcprov-*.jar)
"$jdk/bin/jarsigner" -verify "$signed" | grep -q '^jar verified' || fail "Bouncy Castle's jar has no good signature: $signed"
(cd "$build" && "$jdk/bin/jar" --extract --file "$signed" org && "$jdk/bin/jar" --create --file "$signed" org)

mkdir "$build/bin" "$build/.knockknock"
for command in $commands; do
    options="$(sed -n 's,^//RUNTIME_OPTIONS ,,p' $command.java) -Xlog:disable -Xlog:all=error:stderr"
    cat > "$build/bin/$command" << END
#!/bin/sh
case "\$(id -u) \${1-}" in
0\ * | *\ -h | *\ --help | *\ -V | *\ --version) ;;
*) exec /usr/bin/sudo -- $prefix/bin/$command "\$@" ;; # one start of a JVM instead of two
esac
exec $lib/jdk/bin/java $options -XX:SharedArchiveFile=$lib/$command.jsa -jar $lib/$command.jar "\$@"
END
    chmod 755 "$build/bin/$command"
done
as_root mkdir -p "$prefix/bin" "$prefix/lib"
as_root rm -rf "$lib"
as_root cp -r "$build/lib/knockknock" "$prefix/lib/"
as_root cp "$build"/bin/* "$prefix/bin/"
as_root ln -s "$jdk" "$lib/jdk"
for command in $commands; do
    options=$(sed -n 's,^//RUNTIME_OPTIONS ,,p' $command.java)
    as_root unshare --net sh -c 'ip link set lo up && "$@" > /dev/null || true' sh \
        env -u SUDO_USER "$jdk/bin/java" $options -Duser.home="$build" -XX:DumpLoadedClassList="$build/$command.list" \
        -jar "$lib/$command.jar" $(arguments $command)
    [ $command != knockknock-genprofile ] || as_root mv "$build/server/profiles/127.0.0.1" "$build/.knockknock/"
    # picocli's classes, being of Java 5, can be in an archive only if nothing else in it has linked them
    grep -vE '^@(cp|lambda-proxy) .*(picocli|Cli|Knockknock)' "$build/$command.list" > "$build/list"
    as_root "$jdk/bin/java" $options -Xlog:disable -Xshare:dump -XX:SharedClassListFile="$build/list" \
        -XX:SharedArchiveFile="$lib/$command.jsa" -cp "$lib/$command.jar"
done
echo "installed in $prefix/bin: $commands"
