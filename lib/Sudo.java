import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;

/**
 * Starts this program again in place of itself, with what it lacks: the same java, class path and
 * arguments, from the directory / and with an environment of PATH, HOME and a locale whose file
 * names are UTF-8. Returns only if that cannot be done. What it passes on has a character for each
 * byte.
 */
final class Sudo {
    private static final String NET_RAW = "-all,+net_raw";
    private static final int CAP_NET_RAW = 13;
    private static final List<String> SUDO = List.of("/usr/bin/sudo", "-u", "root", "--");
    private static final String SECOND_START = "-Dknockknock.again"; // there is no third

    private Sudo() {}

    /** As root, for a server's commands. */
    static Failure asRoot(String why) throws IOException {
        if (isSecondStart()) {
            return new Failure(why + " needs root, and sudo did not give it: start it as root");
        }
        Cli.complain(why + " needs root: asking sudo");
        return again(SUDO, List.of(), SECOND_START);
    }

    /** As the same user, with CAP_NET_RAW and nothing more; root itself is left with no more. */
    static Failure withNetRaw() throws IOException {
        if ((status("CapBnd", 16) >> CAP_NET_RAW & 1) == 0) {
            return new Failure("nobody has CAP_NET_RAW here, not even root: a container needs"
                    + " --cap-add=NET_RAW");
        }
        if (Sys.uid() != 0 && status("NoNewPrivs", 10) == 1) {
            return new Failure("no_new_privs keeps sudo from giving CAP_NET_RAW: leave it out, as a"
                    + " container's --security-opt=no-new-privileges");
        }
        if (isSecondStart()) { // without CAP_SETPCAP, setpriv takes nothing away, in silence
            return new Failure("setpriv cannot take root's other capabilities away: in a container"
                    + " this takes CAP_SETPCAP, or CAP_NET_RAW as the only capability");
        }
        var setpriv = new ArrayList<>(List.of("/usr/bin/setpriv", "--bounding-set", NET_RAW,
                "--inh-caps", NET_RAW, "--ambient-caps", NET_RAW, "--no-new-privs"));
        if (Sys.uid() == 0) {
            return again(List.of(), setpriv, SECOND_START);
        }
        Cli.complain("opening a raw socket needs CAP_NET_RAW: asking sudo");
        setpriv.addAll(List.of("--reuid", "" + Sys.uid(), "--regid", "" + Sys.gid(),
                "--init-groups"));
        return again(SUDO, setpriv, SECOND_START);
    }

    /** Root goes on as uid 0 without any capability. */
    static void withoutRoot() throws IOException {
        if (Sys.uid() == 0 && !isSecondStart()) {
            throw again(List.of(), List.of("/usr/bin/setpriv", "--bounding-set", "-all",
                    "--inh-caps", "-all", "--ambient-caps", "-all", "--no-new-privs"),
                    SECOND_START);
        }
    }

    private static boolean isSecondStart() {
        return System.getProperty(SECOND_START.substring(2)) != null;
    }

    /** As the same user, in a locale whose file names are UTF-8, which every glibc has. */
    static Failure withUtf8() throws IOException {
        return again(List.of(), List.of());
    }

    /** A number that the kernel tells of this thread (proc_pid_status(5)). */
    static long status(String key, int radix) throws IOException {
        var line = Files.readAllLines(Path.of("/proc/self/status"), StandardCharsets.ISO_8859_1)
                .stream().filter(field -> field.startsWith(key + ":")).findFirst().orElseThrow();
        return Long.parseUnsignedLong(line.substring(key.length() + 1).strip(), radix);
    }

    private static Failure again(List<String> sudo, List<String> setpriv, String... options)
            throws IOException {
        var command = new ArrayList<>(sudo);
        command.addAll(List.of("/usr/bin/env", "-i", "-C", "/",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"));
        zeroTerminated("/proc/self/environ").filter(variable -> variable.startsWith("HOME="))
                .forEach(command::add); // for a user without an entry in passwd
        command.addAll(setpriv);
        command.add(Sys.readLink("/proc/self/exe"));
        command.addAll(List.of(options));
        command.add("-Duser.dir=" + Sys.readLink("/proc/self/cwd")); // where file names begin
        var own = zeroTerminated("/proc/self/cmdline").skip(1).toList();
        int classPath = 1 + own.indexOf("-classpath");
        if (classPath > 0 && classPath < own.size()) {
            // The JVM verifies nothing there: 0.34 s of processor, not 0.59.
            command.add("-Xbootclasspath/a:" + own.get(classPath).replaceFirst("[^:]*:", ""));
        }
        command.addAll(own);
        return new Failure("cannot start " + command.getFirst() + " (" + Sys.exec(command)
                + "): install sudo and util-linux");
    }

    private static Stream<String> zeroTerminated(String file) throws IOException {
        var text = Files.readString(Path.of(file), StandardCharsets.ISO_8859_1);
        return text.isEmpty() ? Stream.empty()
                : Stream.of(text.substring(0, text.length() - 1).split("\0", -1));
    }
}
