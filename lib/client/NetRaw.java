import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;

/**
 * How a client gets the one privilege that a raw socket takes, CAP_NET_RAW, and how it gives it up:
 * it starts again in place of itself, through sudo and setpriv, with the same java, class path and
 * arguments, in the directory /, with an environment of PATH, HOME and a UTF-8 locale.
 */
final class NetRaw {
    private static final int CAP_NET_RAW = 13, PR_SET_DUMPABLE = 4;
    private static final int LINUX_CAPABILITY_VERSION_3 = 0x20080522;
    private static final List<String> SUDO = List.of("/usr/bin/sudo", "-u", "root", "--");
    private static final String AGAIN = "knockknock.again"; // set in a second start: no third

    private NetRaw() {}

    /** Returns with CAP_NET_RAW and, as root, with no other capability; or starts again so. */
    static void obtain() throws IOException {
        boolean root = Libc.call("geteuid") == 0;
        long capabilities = status("CapEff", 16);
        if ((capabilities >> CAP_NET_RAW & 1) == 1 && (!root || capabilities == 1 << CAP_NET_RAW)) {
            return;
        }
        if ((status("CapBnd", 16) >> CAP_NET_RAW & 1) == 0) {
            throw new Failure("nobody has CAP_NET_RAW here, not even root: a container needs"
                    + " --cap-add=NET_RAW");
        }
        if (!root && status("NoNewPrivs", 10) == 1) {
            throw new Failure("no_new_privs keeps sudo from giving CAP_NET_RAW: leave it out, as a"
                    + " container's --security-opt=no-new-privileges");
        }
        if (System.getProperty(AGAIN) != null) { // without CAP_SETPCAP setpriv silently does less
            throw new Failure("setpriv cannot take root's other capabilities away: in a container"
                    + " this takes CAP_SETPCAP, or CAP_NET_RAW as the only capability");
        }
        var setpriv = setpriv("-all,+net_raw");
        if (root) {
            throw startAgain(List.of(), setpriv);
        }
        Cli.complain("opening a raw socket needs CAP_NET_RAW: asking sudo");
        setpriv.addAll(List.of("--reuid", "" + Libc.call("geteuid"), "--regid",
                "" + Libc.call("getegid"), "--init-groups"));
        throw startAgain(SUDO, setpriv);
    }

    /** Gives up what a client does not need that sends ordinary packets: all. */
    static void doWithout() throws IOException {
        if (status("CapEff", 16) == 0) {
            return;
        }
        if (Libc.call("geteuid") == 0 && System.getProperty(AGAIN) == null) {
            throw startAgain(List.of(), setpriv("-all"));
        }
        giveUp(); // what systemd, for one, gives to whoever logs in
    }

    /** Gives up all capabilities of this thread, and so of every thread that it will start. */
    static void giveUp() {
        Libc.must("prctl", PR_SET_DUMPABLE, 0); // or this user's others could take what it has open
        try (var arena = Arena.ofConfined()) {
            var header = arena.allocateFrom(ValueLayout.JAVA_INT, LINUX_CAPABILITY_VERSION_3, 0);
            Libc.must("capset", header.address(), arena.allocate(24, 4).address()); // all empty
        }
    }

    /** In a POSIX locale, as cron's, the JDK reads no byte of a name that is not ASCII. */
    static void restartInUtf8(String[] args) throws IOException {
        var names = String.join("", args) + System.getProperty("user.home");
        if (names.matches("(?s).*[?\uFFFD].*") && !"C.UTF-8".equals(System.getenv("LC_ALL"))
                && !System.getProperty("sun.jnu.encoding").equals("UTF-8")) {
            throw startAgain(List.of(), List.of());
        }
    }

    private static List<String> setpriv(String capabilities) {
        return new ArrayList<>(List.of("/usr/bin/setpriv", "--bounding-set", capabilities,
                "--inh-caps", capabilities, "--ambient-caps", capabilities, "--no-new-privs"));
    }

    /** A number that the kernel tells of this thread (proc_pid_status(5)). */
    private static long status(String key, int radix) throws IOException {
        var line = Files.readAllLines(Path.of("/proc/self/status"), StandardCharsets.ISO_8859_1)
                .stream().filter(field -> field.startsWith(key + ":")).findFirst().orElseThrow();
        return Long.parseUnsignedLong(line.substring(key.length() + 1).strip(), radix);
    }

    /**
     * Does not return, unless that failed: then with what to throw. A character stands for each
     * byte of what it passes on.
     */
    private static Failure startAgain(List<String> sudo, List<String> setpriv) throws IOException {
        var command = new ArrayList<>(sudo);
        command.addAll(List.of("/usr/bin/env", "-i", "-C", "/",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"));
        zeroTerminated("/proc/self/environ").filter(variable -> variable.startsWith("HOME="))
                .forEach(command::add); // for a user without an entry in passwd
        command.addAll(setpriv);
        command.add(readLink("/proc/self/exe")); // java
        var own = zeroTerminated("/proc/self/cmdline").skip(1).toList();
        if (!setpriv.isEmpty()) {
            command.add("-D" + AGAIN);
        }
        int classPath = 1 + own.indexOf("-classpath");
        if (classPath > 0 && classPath < own.size()) {
            // The JVM verifies nothing there: 0.34 s of processor, not 0.59.
            command.add("-Xbootclasspath/a:" + own.get(classPath).replaceFirst("[^:]*:", ""));
        }
        command.addAll(own);
        try (var arena = Arena.ofConfined()) {
            var argv = arena.allocate(ValueLayout.ADDRESS, command.size() + 1);
            for (int i = 0; i < command.size(); i++) {
                argv.setAtIndex(ValueLayout.ADDRESS, i,
                        arena.allocateFrom(command.get(i), StandardCharsets.ISO_8859_1));
            }
            long error = -Libc.call("execv", argv.get(ValueLayout.ADDRESS, 0).address(),
                    argv.address());
            return new Failure("cannot start " + command.getFirst() + " (" + Libc.errno(error)
                    + "): install sudo and util-linux");
        }
    }

    private static String readLink(String link) {
        try (var arena = Arena.ofConfined()) {
            var target = arena.allocate(4096); // PATH_MAX
            long length = Libc.must("readlink", arena.allocateFrom(link).address(),
                    target.address(), target.byteSize());
            return new String(target.asSlice(0, length).toArray(ValueLayout.JAVA_BYTE),
                    StandardCharsets.ISO_8859_1);
        }
    }

    private static Stream<String> zeroTerminated(String file) throws IOException {
        var text = Files.readString(Path.of(file), StandardCharsets.ISO_8859_1);
        return text.isEmpty() ? Stream.empty()
                : Stream.of(text.substring(0, text.length() - 1).split("\0", -1));
    }
}
