import java.io.File;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.List;

/** How the daemon, which starts as root, gives all of it up, and what its firewall half gets. */
final class Privileges {
    private static final int O_RDONLY = 0, O_RDWR = 2, TIOCNOTTY = 0x5422, SIGHUP = 1, SIG_IGN = 1;
    private static final int PR_SET_DUMPABLE = 4;

    private Privileges() {}

    /** Fails for anybody but root. */
    static void needRoot() {
        if (Libc.call("geteuid") != 0) {
            throw new Failure("this takes root: start it with sudo, or with systemd");
        }
    }

    /**
     * Leaves the controlling terminal: nothing can be typed into its shell; Ctrl-C still works.
     * Standard input becomes /dev/null, so that what is typed there is not read either.
     */
    static void leaveTerminal() {
        try (var arena = Arena.ofConfined()) {
            long none = Libc.must("open", arena.allocateFrom("/dev/null").address(), O_RDONLY);
            Libc.must("dup2", none, 0);
            Libc.must("close", none);
            long tty = Libc.call("open", arena.allocateFrom("/dev/tty").address(), O_RDWR);
            if (tty >= 0) {
                long handler = Libc.call("signal", SIGHUP, SIG_IGN); // sent to a session's leader
                Libc.must("ioctl", tty, TIOCNOTTY);
                Libc.call("signal", SIGHUP, handler);
                Libc.must("close", tty);
            }
        }
    }

    /**
     * Starts the firewall half with its {@code arguments}, and {@code prefix} before its command:
     * as an unprivileged user with CAP_NET_ADMIN and nothing else, in a session of its own, with an
     * empty environment but PATH. Its class path is a copy of this script's own jar, as JBang's
     * cache may be out of its reach; in /run, where nobody but root could make the file again once
     * it is deleted. Returns when it has said that it can work.
     */
    static Process startFirewall(List<String> prefix, int user, int group, String... arguments)
            throws IOException {
        var directory = Files.createTempDirectory(Path.of("/run"), "knockknock");
        var jar = directory.resolve("knockknock.jar");
        try {
            Files.copy(Path.of(System.getProperty("java.class.path").split(":")[0]), jar);
            Files.setPosixFilePermissions(jar, PosixFilePermissions.fromString("rw-r--r--"));
            Files.setPosixFilePermissions(directory, PosixFilePermissions.fromString("rwxr-xr-x"));
            var command = new ArrayList<>(prefix);
            command.addAll(List.of("/usr/bin/setsid", "/usr/bin/setpriv",
                    "--reuid", "" + user, "--regid", "" + group, "--clear-groups",
                    "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin",
                    "--ambient-caps", "-all,+net_admin", "--no-new-privs", "--",
                    System.getProperty("java.home") + "/bin/java",
                    "-XX:+UseSerialGC", "-Xmx8m", "-Xmn1m", "-XX:TieredStopAtLevel=1", // small
                    "-XX:TrimNativeHeapInterval=60000", // as it is once its compiler is done
                    "-XX:-UsePerfData", "-XX:+DisableAttachMechanism", // no file for others
                    "-XX:+ErrorFileToStderr", "-XX:-CreateCoredumpOnCrash",
                    "-XX:-DumpReplayDataOnError", // nor if it crashes
                    "-XX:+ExitOnOutOfMemoryError", // rather than go on in part
                    "-Xlog:disable", "-Xlog:all=warning:stderr", // stdout is for answers, and not
                    "-XX:+DisplayVMOutputToStderr", // for the thread dump that SIGQUIT asks for
                    "--enable-native-access=ALL-UNNAMED", "-cp", jar.toString(),
                    "KnockknockFirewall"));
            command.addAll(List.of(arguments));
            var builder = new ProcessBuilder(command).directory(new File("/"))
                    .redirectError(ProcessBuilder.Redirect.INHERIT);
            builder.environment().clear();
            builder.environment().put("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            builder.environment().put("LC_ALL", "C.UTF-8");
            var process = builder.start();
            int status = process.getInputStream().read(); // by then it has its jar open
            if (status < 0) {
                throw new Failure("the firewall half did not start: this takes CAP_NET_ADMIN and"
                        + " CAP_SETPCAP, and a JDK that every user can run, as in /usr/lib/jvm");
            }
            if (status > 0) {
                throw new Failure("the firewall half cannot work here (" + Libc.errno(status)
                        + "): it takes nftables, a kernel with nf_tables, nf_conntrack_netlink and"
                        + " nf_conntrack_ftp, and room in the kernel's table of connections"
                        + " (net.netfilter.nf_conntrack_count and nf_conntrack_max)");
            }
            return process;
        } finally {
            Files.deleteIfExists(jar);
            Files.delete(directory);
        }
    }

    /**
     * Becomes {@code user} and {@code group} with no groups but {@code groups}, for good: glibc
     * changes every thread (nptl(7)), and the kernel clears the capabilities of each
     * (capabilities(7)). No other process of that user can then trace this one.
     */
    static void dropTo(int user, int group, int... groups) {
        try (var arena = Arena.ofConfined()) {
            var list = arena.allocateFrom(ValueLayout.JAVA_INT, groups);
            Libc.must("setgroups", groups.length, list.address());
            Libc.must("setgid", group);
            Libc.must("setuid", user);
        }
        if (Libc.call("setuid", 0) >= 0) {
            throw new Failure("could become root again after giving it up");
        }
        Libc.must("prctl", PR_SET_DUMPABLE, 0);
    }
}
