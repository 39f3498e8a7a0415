import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Attacks on what the commands may do, by those who start them and by those who have taken one over; nothing is mocked. */
class PrivilegeTest {
    private static final int PIDS = 8_000; // that a report could be named after
    private static final String LINE = "\nalice ALL=(ALL) NOPASSWD: ALL\n";
    private static final String NO_CAPABILITY = "0000000000000000", NET_ADMIN = "0000000000001000", NET_RAW = "0000000000002000";
    /** Threads of HotSpot's own, which run from before the program does, and keep the capabilities that it gives up. */
    private static final Set<String> HOTSPOTS = Set.of("VM Thread", "VM Periodic Tas", "Reference Handl", "Finalizer", "Signal Dispatch",
            "Service Thread", "Monitor Deflati", "C1 CompilerThre", "C2 CompilerThre", "Notification Th", "Common-Cleaner");
    @AutoClose
    private static Lab lab;
    private static Path bin;

    @BeforeAll
    static void install() throws Exception {
        lab = new Lab();
        lab.profile("laptop", 666, Lab.SERVER);
        bin = lab.install();
        lab.asAlice(List.of());
        lab.must("usermod", "--home", lab.home.toString(), "alice"); // if the host has an alice
    }

    @AfterEach
    void endAll() throws Exception {
        var all = ProcessHandle.current().descendants().toList();
        all.forEach(ProcessHandle::destroyForcibly);
        Lab.await("all to end", () -> all.stream().noneMatch(ProcessHandle::isAlive));
    }

    @AfterAll
    static void remove() throws Exception {
        lab.must("env", "PREFIX=" + bin.getParent(), "./install.sh", "--remove");
    }

    // A place for attacks with a crashing JVM

    /**
     * Starts a process with a /tmp, /var/tmp, /run and /root of its own, where alice has put links to a file in
     * /etc/sudoers.d under every name that a JVM or the kernel could give to a report.
     */
    private static Process prepareGround() throws Exception {
        var ready = lab.work.resolve("ground");
        Files.deleteIfExists(ready);
        var ground = lab.start(ready, Lab.on("client", "unshare", "--mount", "sh", "-ec", """
                mount --bind "$0" /mnt; mount -t tmpfs -o mode=1777 tmpfs /tmp; mkdir "$0"; mount --move /mnt "$0"
                for dir in /var/tmp /run /root; do mount -t tmpfs tmpfs $dir; done
                mkdir -m 777 /tmp/alice; mkdir -m 700 /tmp/trace; echo ready; exec sleep infinity
                """, lab.work.toString()));
        Lab.await("the attacker's ground", () -> Files.readString(ready).equals("ready\n"));
        var tmp = Path.of("/proc/" + ground.pid() + "/root/tmp");
        var target = Path.of("/etc/sudoers.d/attack");
        Files.createSymbolicLink(tmp.resolve("alice/core"), target);
        for (long i = 0, first = nextPid(), max = maxPid(); i < PIDS; i++) {
            long pid = (first + i) % max;
            for (var name : List.of("alice/hs_err_pid" + pid + ".log", "alice/replay_pid" + pid + ".log", "alice/core." + pid,
                    "hs_err_pid" + pid + ".log")) { // HotSpot never follows a link for a replay file
                Files.createSymbolicLink(tmp.resolve(name), target);
            }
        }
        return ground;
    }

    private static long nextPid() throws Exception {
        return Long.parseLong(lab.must("sh", "-c", "echo $$").strip());
    }

    private static long maxPid() throws Exception {
        return Long.parseLong(lab.must("sysctl", "-n", "kernel.pid_max").strip());
    }

    /** A command for there; with a limit it starts in alice's directory, and may write cores. */
    private static List<String> inside(Process ground, List<String> command) {
        return join(List.of("nsenter", "--target", "" + ground.pid(), "--mount", "--net"), command);
    }

    /** Megabytes of address space: too little for a JVM to begin with, enough for it, and much between {@code from} and {@code to}. */
    private static List<Integer> limits(int from, int to) {
        return IntStream.concat(IntStream.rangeClosed(0, 10).map(i -> 100 + 390 * i), IntStream.range(0, 16).map(i -> from + (to - from) * i / 16))
                .sorted().boxed().toList();
    }

    private static List<String> limited(int megabytes) {
        return List.of("prlimit", "--as=" + megabytes * 1_000_000L, "--core=unlimited", "env", "-C", "/tmp/alice",
                "JAVA_TOOL_OPTIONS=-XX:-ErrorFileToStderr", "JDK_JAVA_OPTIONS=-XX:ErrorFile=/tmp/alice/hs_err_pid%p.log",
                "_JAVA_OPTIONS=-XX:OnError=/tmp/alice/x -XX:OnOutOfMemoryError=/tmp/alice/x", "CLASSPATH=/tmp/alice");
    }

    private static List<String> asAlice(List<String> command) throws Exception {
        var all = lab.asAlice(command);
        return all.subList(all.indexOf("setpriv"), all.size()); // she is in her network already
    }

    @SafeVarargs
    private static List<String> join(List<String>... parts) {
        return Stream.of(parts).flatMap(List::stream).toList();
    }

    /** Every file that is neither alice's nor the lab's, with owner, mode, size, time of the last change and target. */
    private static Set<String> files(Process ground) throws Exception {
        var print = List.of("-printf", "%p %u %m %s %C@ %l\n");
        return new TreeSet<>(List.of((lab.must(inside(ground, join(List.of("find", "/", "-maxdepth", "1", "!", "-type", "d"), print)))
                + lab.must(inside(ground, join(List.of("find", "/etc", "/home", "/root", "/run", "/tmp", "/var/spool", "/var/tmp",
                "" + bin.getParent(), "" + lab.dir, "-path", "/tmp/alice", "-prune", "-o", "-path", "/tmp/trace", "-prune", "-o",
                "-path", "" + lab.work, "-prune", "-o"), print)))).split("\n")));
    }

    private static Set<String> without(Set<String> files, Set<String> others) {
        return files.stream().filter(file -> !others.contains(file)).collect(Collectors.toCollection(TreeSet::new));
    }

    private static boolean isFromHotSpot(Lab.Result result) {
        return result.exit() != 0 && result.err().contains("# There is insufficient memory for the Java Runtime Environment");
    }

    @Test
    void aClientThatCrashesUnderSudoWritesNothingForItsUserAndIsNeverRoot() throws Exception {
        Files.writeString(Path.of("/etc/sudoers.d/alice"), "alice ALL=(root) NOPASSWD: " + bin.resolve("knockknock") + "\n");
        long first = nextPid();
        var ground = prepareGround();
        var before = files(ground);
        var uid = lab.must("id", "-u", "alice").strip();
        int crashes = 0, knocks = 0, step = 0, machines = 0;
        for (int limit : limits(2500, 3000)) {
            var client = bin.resolve("knockknock").toString();
            for (var command : List.of(List.of(client, "-p", "1", LINE), List.of(client, "-p", "1", Lab.SERVER),
                    List.of("sudo", "-n", client, "--help", LINE))) {
                var result = lab.run(inside(ground, join(List.of("strace", "-ff", "-qq", "-e", "signal=none",
                        "-e", "trace=execve,execveat,setuid,setreuid,setresuid", "-o", "/tmp/trace/" + step++), limited(limit),
                        asAlice(command))));
                crashes += isFromHotSpot(result) ? 1 : 0;
                knocks += result.exit() == 0 ? 1 : 0;
                assertFalse(result.err().contains("Picked up"), result.err());
            }
        }
        try (var traces = Files.list(Path.of("/proc/" + ground.pid() + "/root/tmp/trace"))) { // one for each process
            for (var trace : traces.toList()) {
                var calls = Files.readAllLines(trace);
                for (int i = 0; i < calls.size(); i++) {
                    if (calls.get(i).matches("execve\\(\"[^\"]*/java\".* = 0")) {
                        machines++;
                        assertTrue(calls.get(i - 1).matches("setresuid\\(U, U, U\\) += 0".replace("U", uid)), calls.toString());
                    }
                }
            }
        }
        System.out.println(step + " " + crashes + " " + knocks + " " + machines + " " + (nextPid() - first));
        assertTrue(machines > step / 2, "JVMs: " + machines);
        assertTrue(crashes > 0 && knocks > 0, crashes + " crashes, " + knocks + " knocks");
        assertTrue((nextPid() - first + maxPid()) % maxPid() < PIDS, "the links had the right names");
        assertEquals(Set.of(), without(files(ground), before), "made or changed");
        assertEquals(Set.of(), without(before, files(ground)), "removed or changed");
        assertEquals(1, lab.run(inside(ground, asAlice(List.of("sudo", "-n", "id")))).exit());
    }

    @ParameterizedTest
    @CsvSource({"knockknock-genprofile, 2600, 3200", "knockknock-daemon, 1600, 2300"})
    void aServersCommandThatCrashesAsRootWritesNoReport(String command, int from, int to) throws Exception {
        long first = nextPid();
        var ground = prepareGround();
        var before = files(ground);
        int crashes = 0, done = 0, step = 0;
        for (int limit : limits(from, to)) {
            var arguments = command.equals("knockknock-daemon") ? List.of("--check") : List.of("p" + ++step, "" + step);
            var result = lab.run(inside(ground, join(limited(limit), List.of(bin.resolve(command).toString(), "--dir", "/tmp/trace/server"),
                    arguments)));
            crashes += isFromHotSpot(result) ? 1 : 0;
            done += result.exit() == 0 ? 1 : 0;
            assertFalse(result.err().contains("Picked up"), result.err());
        }
        System.out.println(crashes + " " + done + " " + (nextPid() - first));
        assertTrue(crashes > 0, "crashes");
        assertEquals(Set.of(), without(files(ground), before).stream().filter(file -> !file.startsWith("/tmp/hsperfdata_root"))
                .collect(Collectors.toSet()));
        assertFalse(Files.exists(Path.of("/etc/sudoers.d/attack")));
    }

    // On a terminal

    /** A command on a new pseudo-terminal, as the leader of its session; what is written to its input is typed there. */
    private static Process onTerminal(Path screen, List<String> command) throws Exception {
        Files.deleteIfExists(screen);
        return lab.start(screen, join(List.of("python3", "-c", "import pty, sys; pty.spawn(sys.argv[1:])"), Lab.on("server", command)));
    }

    private static void type(Process terminal, String keys) throws IOException {
        terminal.getOutputStream().write(keys.getBytes(StandardCharsets.US_ASCII));
        terminal.getOutputStream().flush();
    }

    private static void awaitText(Path screen, String text) throws Exception {
        Lab.await(() -> text + " in " + Files.readString(screen), () -> Files.readString(screen).contains(text));
    }

    /** A field of /proc/PID/stat, counted as in proc_pid_stat(5). */
    private static long stat(ProcessHandle process, int field) {
        try {
            return Long.parseLong(Files.readString(Path.of("/proc/" + process.pid() + "/stat")).replaceFirst("(?s).*\\)", "").split(" ")[field - 2]);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The daemon and its descendants: the firewall half, nft and, if it follows a file, tail. */
    private static List<ProcessHandle> family(ProcessHandle daemon, boolean file) throws Exception {
        var all = Stream.concat(Stream.of(daemon), daemon.descendants()).toList();
        var names = new ArrayList<String>();
        for (var process : all) {
            names.add(Files.readString(Path.of("/proc/" + process.pid() + "/comm")).strip());
        }
        assertEquals(file ? List.of("java", "java", "nft", "tail") : List.of("java", "java", "nft"), names.stream().sorted().toList());
        return all;
    }

    private static void assertGone(List<ProcessHandle> family) throws Exception {
        Lab.await("all to end", () -> family.stream().noneMatch(ProcessHandle::isAlive));
        assertFalse(lab.mustOn("server", "nft", "list", "tables").contains("knockknock"));
        var running = lab.must("ps", "axww", "-o", "args");
        assertFalse(running.contains("KnockknockFirewall") || running.contains("nft -i") || running.contains("tail -v"), running);
    }

    private static Path newLog() throws Exception {
        lab.must("install", "-m", "640", "-g", "adm", "/dev/null", lab.kernLog.toString());
        return lab.kernLog;
    }

    @Test
    void aDaemonInTheForegroundOfARootShellLeavesItsTerminalAndEndsOnCtrlC() throws Exception {
        var screen = lab.work.resolve("screen");
        var terminal = onTerminal(screen, List.of("env", "PS1=root> ", "ENV=", "sh", "-i"));
        awaitText(screen, "root> ");
        type(terminal, bin.resolve("knockknock-daemon") + " --dir " + lab.dir + " --log " + newLog() + "\n");
        awaitText(screen, "ready:");
        var shell = ProcessHandle.of(terminal.pid()).orElseThrow().children().findFirst().orElseThrow();
        var daemon = shell.children().findFirst().orElseThrow();
        var family = family(daemon, true);
        assertEquals(shell.pid(), stat(daemon, 6), "the shell's session");
        assertNotEquals(0, stat(shell, 7), "the shell has a terminal");
        for (var process : family) {
            assertEquals(0, stat(process, 7), process.info().toString());
        }
        type(terminal, "\3");
        assertGone(family);
        type(terminal, "echo ended: $?\n");
        awaitText(screen, "ended: 130");
    }

    @Test
    void withoutATerminalNothingCanBeTypedIntoTheShell() throws Exception {
        var setting = Path.of("/proc/sys/dev/tty/legacy_tiocsti"); // since Linux 6.2
        var before = Files.exists(setting) ? lab.must("cat", setting.toString()) : null;
        var code = Files.writeString(lab.work.resolve("type.py"), """
                import fcntl, os, sys, termios
                def attempt(what, request, argument):
                    try:
                        fcntl.ioctl(0, request, argument)
                        print(what, 'done', flush=True)
                    except OSError as e:
                        print(what, os.strerror(e.errno), flush=True)
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
        try {
            if (before != null) {
                Files.writeString(setting, "1");
            }
            var screen = lab.work.resolve("screen");
            var terminal = onTerminal(screen, List.of("env", "PS1=root> ", "ENV=", "sh", "-i"));
            awaitText(screen, "root> ");
            type(terminal, "python3 " + code + "\n");
            awaitText(screen, "typing then:");
            for (var line : List.of("typing with a terminal: done", "typing without: Operation not permitted",
                    "taking it back: Operation not permitted", "typing then: Operation not permitted")) {
                awaitText(screen, line);
            }
        } finally {
            if (before != null) {
                Files.writeString(setting, before);
            }
        }
    }

    @Test
    void aDaemonThatLeadsTheTerminalsSessionSurvivesLeavingIt() throws Exception {
        var screen = lab.work.resolve("screen");
        var terminal = onTerminal(screen, List.of(bin.resolve("knockknock-daemon").toString(), "--dir", lab.dir.toString()));
        awaitText(screen, "ready:");
        var daemon = ProcessHandle.of(terminal.pid()).orElseThrow().children().findFirst().orElseThrow();
        assertEquals(daemon.pid(), stat(daemon, 6), "its own session");
        var family = family(daemon, false);
        for (var process : family) {
            assertEquals(0, stat(process, 7), process.info().toString());
        }
        daemon.destroy();
        assertGone(family);
    }

    // Who holds what

    /** What stands in the status of a process's threads under these keys, the same for all of them. */
    private static String held(ProcessHandle process, String... keys) throws Exception {
        var all = new TreeSet<String>();
        try (var threads = Files.list(Path.of("/proc/" + process.pid() + "/task"))) {
            for (var thread : threads.toList()) {
                all.add(status(thread, keys));
            }
        }
        assertEquals(1, all.size(), all.toString());
        return all.first();
    }

    private static String status(Path thread, String... keys) throws IOException {
        var wanted = List.of(keys);
        return Files.readAllLines(thread.resolve("status")).stream().map(line -> line.split(":", 2)).filter(pair -> wanted.contains(pair[0]))
                .map(pair -> pair[0] + " " + pair[1].strip().replaceAll("\\s+", " ")).collect(Collectors.joining("\n"));
    }

    /** What somebody gets at in another process: its memory, environment, descriptors, or all of it. */
    private static List<String> reached(List<String> as, long pid) throws Exception {
        var proc = "/proc/" + pid + "/";
        var take = "import ctypes, os; exit(ctypes.CDLL(None).syscall(438, os.pidfd_open(" + pid + "), 0, 0) < 0)"; // pidfd_getfd(2)
        var reached = new ArrayList<String>();
        for (var attack : List.of(List.of("dd", "if=" + proc + "mem", "count=0"), List.of("cat", proc + "environ"), List.of("cat", proc + "maps"),
                List.of("readlink", proc + "fd/0"), List.of("python3", "-c", take), List.of("timeout", "1", "strace", "-p", "" + pid))) {
            var result = lab.run(join(as, attack));
            if (result.exit() == 0 || result.err().contains(" attached\n")) {
                reached.add(attack.getFirst());
            }
        }
        return reached;
    }

    /** A process of a user, with no more than these capabilities. */
    private static List<String> as(String user, String capabilities) {
        return List.of("setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups", "--bounding-set=" + capabilities,
                "--inh-caps=" + capabilities, "--ambient-caps=" + capabilities, "env", "PATH=/usr/bin:/bin"); // a python3 for all
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void aReadyServerHoldsNothingOfRootsAndItsHalvesCannotReachEachOther(boolean file) throws Exception {
        var marker = Files.writeString(lab.work.resolve("marker"), "").toRealPath();
        var start = List.of("bash", "-c", "exec 5< $0 9<> $0 57>> $0; exec \"$@\"", marker.toString(), bin.resolve("knockknock-daemon").toString());
        lab.startDaemon(start, file ? new String[] {"--log", newLog().toString()} : new String[0]);
        var uid = lab.must("id", "-u", "knockknock").strip();
        var gid = lab.must("id", "-g", "knockknock").strip();
        var adm = lab.must("getent", "group", "adm").split(":")[2];
        var family = family(lab.daemon().toHandle(), file);
        for (var process : family) {
            var name = Files.readString(Path.of("/proc/" + process.pid() + "/cmdline")).replace('\0', ' ');
            boolean half = name.contains("KnockknockFirewall") || name.startsWith("nft ");
            var four = half ? NET_ADMIN : NO_CAPABILITY;
            assertEquals("Uid" + (" " + uid).repeat(4) + "\nGid" + (" " + gid).repeat(4) + "\nGroups " + (file && !half ? adm : "")
                    + "\nCapInh " + four + "\nCapPrm " + four + "\nCapEff " + four + "\nCapAmb " + four,
                    held(process, "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb"), name);
            if (half) {
                assertEquals("CapBnd " + NET_ADMIN + "\nNoNewPrivs 1", held(process, "CapBnd", "NoNewPrivs"), name);
            }
            if (!process.equals(family.getFirst())) {
                assertEquals(half ? "PATH=/usr/sbin:/usr/bin:/sbin:/bin\0" : "", Files.readString(Path.of("/proc/" + process.pid() + "/environ")), name);
            }
            try (var descriptors = Files.list(Path.of("/proc/" + process.pid() + "/fd"))) {
                for (var descriptor : descriptors.toList()) {
                    assertNotEquals(marker, Files.readSymbolicLink(descriptor), name);
                }
            }
        }

        // Nobody of the same user gets at either half, nor one half at the other.
        var sleep = lab.start(lab.work.resolve("sleep"), join(as("knockknock", "-all"), List.of("sleep", "infinity")));
        Lab.await("sleep", () -> Files.readString(Path.of("/proc/" + sleep.pid() + "/comm")).equals("sleep\n"));
        assertEquals(List.of("dd", "cat", "cat", "readlink", "python3", "timeout"), reached(as("knockknock", "-all"), sleep.pid()), "the attacks work");
        var half = family.stream().filter(process -> process.info().commandLine().orElse("").contains("KnockknockFirewall")).findFirst().orElseThrow();
        assertEquals(List.of(), reached(as("knockknock", "-all"), half.pid()));
        assertEquals(List.of(), reached(as("knockknock", "-all"), lab.daemon().pid()));
        assertEquals(List.of(), reached(as("knockknock", "-all,+net_admin"), lab.daemon().pid()));
        lab.stopDaemon();
        assertGone(family);
    }

    @Test
    void aReadyProxyHasNoCapabilityWhereItsOwnCodeRunsAndItsUserCannotReachIt() throws Exception {
        var out = lab.work.resolve("proxy");
        var command = new ArrayList<>(lab.asAlice(List.of(bin.resolve("knockknock-proxy").toString(), "1080")));
        command.addAll(command.indexOf("setpriv") + 1, List.of("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"));
        var proxy = lab.start(out, command);
        awaitText(out, "ready:");
        // It serves somebody.
        lab.start(lab.work.resolve("service"), Lab.on("client", "nc", "-lk", "127.0.0.1", "99"));
        Lab.await("the service", () -> !lab.mustOn("client", "ss", "-Hltn", "sport = :99").isEmpty());
        lab.start(lab.work.resolve("user"), Lab.on("client", "nc", "-X", "5", "-x", "127.0.0.1:1080", "127.0.0.1", "99"));
        Lab.await("the connection", () -> !lab.mustOn("client", "ss", "-Htn", "state", "established", "dport = :99").isEmpty());

        var uid = lab.must("id", "-u", "alice").strip();
        var none = ("Uid" + (" " + uid).repeat(4) + "\nCapInh 0\nCapPrm 0\nCapEff 0\nCapAmb 0").replace(" 0", " " + NO_CAPABILITY);
        var own = new TreeSet<String>();
        try (var threads = Files.list(Path.of("/proc/" + proxy.pid() + "/task"))) {
            for (var thread : threads.toList()) {
                var name = Files.readString(thread.resolve("comm")).strip();
                var held = status(thread, "Uid", "CapInh", "CapPrm", "CapEff", "CapAmb");
                if (HOTSPOTS.contains(name) || name.equals("java") && thread.endsWith("" + proxy.pid())) { // waits for main's
                    assertTrue(held.equals(none) || held.equals(none.replace(NO_CAPABILITY, NET_RAW)), name + " " + held);
                } else {
                    assertEquals(none, held, name);
                    own.add(name);
                }
            }
        }
        assertTrue(own.containsAll(Set.of("java", "Thread-0", "Thread-1", "ForkJoinPool-1-", "pool-1-thread-1")), own.toString());
        var sleep = lab.start(lab.work.resolve("sleep"), lab.asAlice(List.of("sleep", "infinity")));
        Lab.await("sleep", () -> Files.readString(Path.of("/proc/" + sleep.pid() + "/comm")).equals("sleep\n"));
        assertEquals(List.of("dd", "cat", "cat", "readlink", "python3", "timeout"), reached(as("alice", "-all"), sleep.pid()), "the attacks work");
        assertEquals(List.of(), reached(as("alice", "-all"), proxy.pid()));
        assertEquals(List.of(), reached(as("alice", "-all,+net_raw"), proxy.pid()));
    }
}
