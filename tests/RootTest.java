import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What a server's root and a caller of sudo are safe from: a JVM that crashes, and a terminal. */
class RootTest extends Installed {
    /**
     * A process with a /home, /root, /run, /tmp and /var/tmp of its own. In its /tmp and in
     * /tmp/alice are links to a
     * file in /etc/sudoers.d, under every name that a JVM or the kernel could give to a report on a
     * process to come.
     */
    private static Process prepareGround() throws Exception {
        var ready = lab.work.resolve("ground");
        Files.deleteIfExists(ready);
        var ground = lab.start(ready, Lab.on("client", "unshare", "--mount", "sh", "-ec", """
                mount --bind "$0" /mnt; mount -t tmpfs -o mode=1777 tmpfs /tmp; mkdir "$0"; mount \
                --move /mnt "$0"
                for dir in /home /root /run /var/tmp; do mount -t tmpfs tmpfs $dir; done
                mkdir -m 777 /tmp/alice; mkdir -m 700 /tmp/own; echo ready; exec sleep infinity
                """, lab.work.toString()));
        Lab.await("the ground", () -> Files.readString(ready).equals("ready\n"));
        var tmp = Path.of("/proc/" + ground.pid() + "/root/tmp");
        Files.createSymbolicLink(tmp.resolve("alice/core"), ATTACK);
        long first = nextPid(), most = mostPids();
        for (int i = 0; i < PIDS; i++) {
            long pid = (first + i) % most;
            for (var name : List.of("alice/hs_err_pid" + pid + ".log", "alice/replay_pid" + pid
                    + ".log",
                    // no link is followed for /tmp/replay_pid
                    "alice/core." + pid, "hs_err_pid" + pid + ".log")) {
                Files.createSymbolicLink(tmp.resolve(name), ATTACK);
            }
        }
        return ground;
    }

    private static long nextPid() throws Exception {
        return Long.parseLong(lab.must("sh", "-c", "echo $$").strip());
    }

    private static long mostPids() throws Exception {
        return Long.parseLong(lab.must("sysctl", "-n", "kernel.pid_max").strip());
    }

    private static List<String> inside(Process ground, List<String> command) {
        return join(List.of("nsenter", "--target", "" + ground.pid(), "--mount", "--net"), command);
    }

    /** What a caller can set who wants a JVM to crash, and to say so where he likes. */
    private static List<String> limited(int megabytes) {
        return List.of("prlimit", "--as=" + megabytes * 1_000_000L, "--core=unlimited", "env", "-C",
                "/tmp/alice",
                "JAVA_TOOL_OPTIONS=-XX:-ErrorFileToStderr", "CLASSPATH=/tmp/alice",
                "JDK_JAVA_OPTIONS=-XX:ErrorFile=/tmp/alice/hs_err_pid%p.log",
                "_JAVA_OPTIONS=-XX:OnError=/tmp/alice/x -XX:OnOutOfMemoryError=/tmp/alice/x");
    }

    /**
     * Megabytes from too few for a JVM to begin with to more than enough, most of them in one
     * range.
     */
    private static List<Integer> limits(int from, int to) {
        return IntStream.concat(IntStream.rangeClosed(0, 6).map(i -> 100 + 650 * i),
                IntStream.range(0, 10).map(i -> from + (to - from) * i / 10)).boxed().toList();
    }

    /**
     * Every file that an attack could reach, with owner, mode, size, time of the last change, and
     * target.
     */
    private static Set<String> files(Process ground) throws Exception {
        var print = List.of("-printf", "%p %u %m %s %C@ %l\n");
        var root = lab.must(inside(ground,
                join(List.of("find", "/", "-maxdepth", "1", "!", "-type", "d"), print)));
        var below = lab.must(inside(ground,
                join(List.of("find", "/etc", "/home", "/root", "/run", "/tmp", "/var/spool",
                "/var/tmp", "" + bin.getParent(), "" + lab.dir, "-path", "/tmp/own", "-prune",
                "-o", "-path", "" + lab.work, "-prune", "-o"), print)));
        return new TreeSet<>(List.of((root + below).split("\n")));
    }

    private static Set<String> difference(Set<String> before, Set<String> after) {
        return Stream.concat(before.stream().filter(file -> !after.contains(file)),
                after.stream().filter(file -> !before.contains(file)))
                        .collect(Collectors.toCollection(TreeSet::new));
    }

    private static boolean isCrash(Lab.Result result) {
        return result.exit() != 0 && result.err()
                .contains("# There is insufficient memory for the Java Runtime");
    }

    private static void assertNamesWereRight(long first) throws Exception {
        assertTrue((nextPid() - first + mostPids()) % mostPids() < PIDS, "links for all processes");
    }

    @Test
    void aClientThatCrashesUnderSudoWritesNothingAndItsJvmIsNeverRoot() throws Exception {
        var client = command("knockknock");
        Lab.sudoFor("(root) " + client);
        var attempts = List.of(List.of(client, "-p", "1", LINE),
                List.of(client, "-p", "1", Lab.SERVER),
                List.of("sudo", "-n", client, "--help", LINE));
        long first = nextPid();
        var ground = prepareGround();
        var before = files(ground);
        int runs = 0, crashes = 0, knocks = 0, jvms = 0;
        for (int limit : limits(2600, 3200)) {
            for (var attempt : attempts) {
                var strace = List.of("strace", "-ff", "-qq", "-e", "signal=none", "-o", "/tmp/own/"
                        + runs++,
                        "-e", "trace=execve,execveat,setuid,setreuid,setresuid");
                var result = lab.run(inside(ground,
                        join(strace, limited(limit), asAlice(attempt))));
                crashes += isCrash(result) ? 1 : 0;
                knocks += result.exit() == 0 && attempt.contains(Lab.SERVER) ? 1 : 0;
                assertFalse(result.err().contains("Picked up"), result.err());
            }
        }
        // Not a sample: every java that any process became, right after that process had become
        // alice for good.
        var uid = lab.must("id", "-u", "alice").strip();
        try (var traces = Files.list(Path.of("/proc/" + ground.pid() + "/root/tmp/own"))) {
            for (var trace : traces.toList()) {
                var calls = Files.readAllLines(trace);
                for (int i = 0; i < calls.size(); i++) {
                    if (calls.get(i).matches("execve(at)?\\(\"[^\"]*/java\".* = 0")) {
                        jvms++;
                        assertTrue(i > 0 && calls.get(i - 1)
                                .matches("setresuid\\(U, U, U\\) += 0".replace("U", uid)),
                                String.join("\n", calls));
                    }
                }
            }
        }
        assertTrue(jvms > runs / 2 && crashes > 0 && knocks > 0, jvms + " JVMs, " + crashes
                + " crashes, " + knocks);
        assertNamesWereRight(first);
        assertEquals(Set.of(), difference(before, files(ground)));
        assertEquals(1, lab.run(inside(ground, asAlice(List.of("sudo", "-n", "id")))).exit());
    }

    @ParameterizedTest
    @CsvSource({"knockknock-genprofile, 2600, 3200", "knockknock-check, 1600, 2300"})
    void aServersCommandThatCrashesAsRootWritesNoReport(String name, int from,
            int to) throws Exception {
        long first = nextPid();
        var ground = prepareGround();
        var before = files(ground);
        int runs = 0, crashes = 0;
        for (int limit : limits(from, to)) {
            var arguments = name.equals("knockknock-check") ? List.<String>of()
                    : List.of("p" + ++runs, "" + runs);
            var result = lab.run(inside(ground, join(limited(limit),
                    List.of(command(name), "--dir", "/tmp/own/server"), arguments)));
            crashes += isCrash(result) ? 1 : 0;
            assertFalse(result.err().contains("Picked up"), result.err());
        }
        assertTrue(crashes > 0);
        assertNamesWereRight(first);
        var changed = difference(before, files(ground));
        // No reports; the directory of the firewall half's jar may be left, which is root's alone.
        changed.removeIf(file ->
                file.matches("/(run|tmp|tmp/hsperfdata_root.*|run/knockknock\\d+[^ ]*) .*"));
        assertEquals(Set.of(), changed);
    }

    /**
     * A command on a new terminal, as the leader of its session; what is written to its stdin is
     * typed there.
     */
    private static Process onTerminal(Path screen, String... command) throws Exception {
        Files.deleteIfExists(screen);
        var spawn = List.of("python3", "-c", "import pty, sys; pty.spawn(sys.argv[1:])");
        return lab.start(screen, join(spawn, Lab.on("server", command)));
    }

    private static Process shellOnTerminal(Path screen) throws Exception {
        var terminal = onTerminal(screen, "env", "PS1=root> ", "ENV=", "sh", "-i");
        awaitText(screen, "root> ");
        return terminal;
    }

    private static void type(Process terminal, String keys) throws IOException {
        terminal.getOutputStream().write(keys.getBytes(StandardCharsets.US_ASCII));
        terminal.getOutputStream().flush();
    }

    /**
     * A field of /proc/PID/stat: 6 is the session, 7 the controlling terminal (proc_pid_stat(5)).
     */
    private static long stat(ProcessHandle process, int field) throws IOException {
        return Long.parseLong(proc(process.pid(), "stat").replaceFirst("(?s).*\\) ", "")
                .split(" ")[field - 3]);
    }

    private static void assertWithoutTerminal(List<ProcessHandle> family) throws Exception {
        for (var process : family) {
            assertEquals(0, stat(process, 7), process.info().toString());
        }
    }

    @Test
    void aDaemonInTheForegroundOfARootShellLeavesItsTerminalAndEndsOnCtrlC() throws Exception {
        var screen = lab.work.resolve("screen");
        var terminal = shellOnTerminal(screen);
        type(terminal, command("knockknock-daemon") + " --dir " + lab.dir + " --log " + emptyLog()
                + "\n");
        awaitText(screen, "ready:");
        var shell = child(terminal.toHandle());
        var family = family(child(shell), true);
        assertEquals(shell.pid(), stat(family.getFirst(), 6), "the shell's session");
        assertNotEquals(0, stat(shell, 7), "the shell has a terminal");
        assertWithoutTerminal(family);
        assertEquals(Path.of("/dev/null"),
                Files.readSymbolicLink(Path.of("/proc/" + family.getFirst().pid() + "/fd/0")));
        type(terminal, "\3");
        assertGone(family);
        type(terminal, "echo ended: $?\n");
        awaitText(screen, "ended: 130");
    }

    @Test
    void aDaemonThatLeadsTheTerminalsSessionSurvivesLeavingIt() throws Exception {
        var screen = lab.work.resolve("screen");
        var terminal = onTerminal(screen, command("knockknock-daemon"), "--dir",
                lab.dir.toString());
        awaitText(screen, "ready:");
        var daemon = child(terminal.toHandle());
        assertEquals(daemon.pid(), stat(daemon, 6), "its own session");
        var family = family(daemon, false);
        assertWithoutTerminal(family);
        daemon.destroy();
        assertGone(family);
    }

    @Test
    void whoHasLeftTheTerminalAsTheDaemonDoesCannotTypeIntoItsShell() throws Exception {
        var code = Files.writeString(lab.work.resolve("type.py"), """
                import fcntl, os, termios
                def attempt(what, request, argument):
                    try:
                        fcntl.ioctl(0, request, argument)
                        print(what, 'done', flush=True)
                    except OSError as e:
                        print(what, 'errno', e.errno, flush=True)
                os.setgroups([]); os.setgid(65534); os.setuid(65534)
                attempt('typing with a terminal:', termios.TIOCSTI, b'\\n')
                fcntl.ioctl(os.open('/dev/tty', os.O_RDWR), termios.TIOCNOTTY)
                attempt('typing without:', termios.TIOCSTI, b'#')
                if os.fork() == 0:
                    os.setsid()
                    attempt('taking it back:', termios.TIOCSCTTY, 1)
                    attempt('typing then:', termios.TIOCSTI, b'#')
                    os._exit(0)
                os.wait()
                """);
        // since Linux 6.2, before it always on
        var setting = Path.of("/proc/sys/dev/tty/legacy_tiocsti");
        var before = Files.exists(setting) ? lab.must("cat", setting.toString()) : "";
        try {
            if (!before.isEmpty()) {
                Files.writeString(setting, "1");
            }
            var screen = lab.work.resolve("screen");
            type(shellOnTerminal(screen), "python3 " + code + "\n");
            // EPERM
            for (var line : List.of("typing with a terminal: done", "typing without: errno 1",
                    "taking it back: errno 1", "typing then: errno 1")) {
                awaitText(screen, line);
            }
        } finally {
            if (!before.isEmpty()) {
                Files.writeString(setting, before);
            }
        }
    }
}
