import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
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

/** Attacks on the installed commands, by those who may start them and by those who have taken one over. */
class PrivilegeTest {
    private static final int PIDS = 6_000; // more than a test uses up
    private static final String LINE = "\nalice ALL=(ALL) NOPASSWD: ALL\n";
    private static final Path ATTACK = Path.of("/etc/sudoers.d/attack");
    private static final Path DROP_IN = Path.of("/etc/rsyslog.d/10-knockknock.conf");
    private static final String NONE = "0000000000000000";
    private static final String NET_ADMIN = "0000000000001000", NET_RAW = "0000000000002000";
    /** HotSpot's own threads start before the program, and keep the capability that the program gives up. */
    private static final Set<String> HOTSPOTS = Set.of("VM Thread", "VM Periodic Tas", "Reference Handl", "Finalizer",
            "Signal Dispatch", "Service Thread", "Monitor Deflati", "C1 CompilerThre", "C2 CompilerThre",
            "Notification Th", "Common-Cleaner");
    @AutoClose
    private static Lab lab;
    private static Path bin;

    @BeforeAll
    static void install() throws Exception {
        lab = new Lab();
        lab.profile("laptop", 666, Lab.SERVER);
        Files.deleteIfExists(DROP_IN);
        bin = lab.install();
        lab.asAlice(List.of());
        lab.must("usermod", "--home", lab.home.toString(), "alice"); // if the host has an alice of its own
    }

    @AfterEach
    void endAll() throws Exception {
        var all = ProcessHandle.current().descendants().toList();
        all.forEach(ProcessHandle::destroyForcibly);
        Lab.await("all to end", () -> all.stream().noneMatch(ProcessHandle::isAlive));
        Files.deleteIfExists(ATTACK);
    }

    @AfterAll
    static void remove() throws Exception {
        lab.must("env", "PREFIX=" + bin.getParent(), "./install.sh", "--remove");
    }

    private static String command(String name) {
        return bin.resolve(name).toString();
    }

    @SafeVarargs
    private static List<String> join(List<String>... parts) {
        return Stream.of(parts).flatMap(List::stream).toList();
    }

    private static String proc(long pid, String file) throws IOException {
        return Files.readString(Path.of("/proc/" + pid + "/" + file)).strip();
    }

    // 1. A JVM that crashes

    /**
     * A process with a /home, /root, /run, /tmp and /var/tmp of its own. In its /tmp and in /tmp/alice are links to a
     * file in /etc/sudoers.d, under every name that a JVM or the kernel could give to a report on a process to come.
     */
    private static Process prepareGround() throws Exception {
        var ready = lab.work.resolve("ground");
        Files.deleteIfExists(ready);
        var ground = lab.start(ready, Lab.on("client", "unshare", "--mount", "sh", "-ec", """
                mount --bind "$0" /mnt; mount -t tmpfs -o mode=1777 tmpfs /tmp; mkdir "$0"; mount --move /mnt "$0"
                for dir in /home /root /run /var/tmp; do mount -t tmpfs tmpfs $dir; done
                mkdir -m 777 /tmp/alice; mkdir -m 700 /tmp/own; echo ready; exec sleep infinity
                """, lab.work.toString()));
        Lab.await("the ground", () -> Files.readString(ready).equals("ready\n"));
        var tmp = Path.of("/proc/" + ground.pid() + "/root/tmp");
        Files.createSymbolicLink(tmp.resolve("alice/core"), ATTACK);
        long first = nextPid(), most = mostPids();
        for (int i = 0; i < PIDS; i++) {
            long pid = (first + i) % most;
            for (var name : List.of("alice/hs_err_pid" + pid + ".log", "alice/replay_pid" + pid + ".log",
                    "alice/core." + pid, "hs_err_pid" + pid + ".log")) { // no link is followed for /tmp/replay_pid
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
        return List.of("prlimit", "--as=" + megabytes * 1_000_000L, "--core=unlimited", "env", "-C", "/tmp/alice",
                "JAVA_TOOL_OPTIONS=-XX:-ErrorFileToStderr", "CLASSPATH=/tmp/alice",
                "JDK_JAVA_OPTIONS=-XX:ErrorFile=/tmp/alice/hs_err_pid%p.log",
                "_JAVA_OPTIONS=-XX:OnError=/tmp/alice/x -XX:OnOutOfMemoryError=/tmp/alice/x");
    }

    /** Megabytes from too few for a JVM to begin with to more than enough, most of them in one range. */
    private static List<Integer> limits(int from, int to) {
        return IntStream.concat(IntStream.rangeClosed(0, 6).map(i -> 100 + 650 * i),
                IntStream.range(0, 10).map(i -> from + (to - from) * i / 10)).boxed().toList();
    }

    private static List<String> asAlice(List<String> command) throws Exception {
        var all = lab.asAlice(command);
        return all.subList(all.indexOf("setpriv"), all.size()); // in her network already
    }

    /** Every file that an attack could reach, with owner, mode, size, time of the last change, and target. */
    private static Set<String> files(Process ground) throws Exception {
        var print = List.of("-printf", "%p %u %m %s %C@ %l\n");
        var root = lab.must(inside(ground, join(List.of("find", "/", "-maxdepth", "1", "!", "-type", "d"), print)));
        var below = lab.must(inside(ground, join(List.of("find", "/etc", "/home", "/root", "/run", "/tmp", "/var/spool",
                "/var/tmp", "" + bin.getParent(), "" + lab.dir, "-path", "/tmp/own", "-prune",
                "-o", "-path", "" + lab.work, "-prune", "-o"), print)));
        return new TreeSet<>(List.of((root + below).split("\n")));
    }

    private static Set<String> difference(Set<String> before, Set<String> after) {
        return Stream.concat(before.stream().filter(file -> !after.contains(file)),
                after.stream().filter(file -> !before.contains(file))).collect(Collectors.toCollection(TreeSet::new));
    }

    private static boolean isCrash(Lab.Result result) {
        return result.exit() != 0 && result.err().contains("# There is insufficient memory for the Java Runtime");
    }

    private static void assertNamesWereRight(long first) throws Exception {
        assertTrue((nextPid() - first + mostPids()) % mostPids() < PIDS, "links for all processes");
    }

    @Test
    void aClientThatCrashesUnderSudoWritesNothingAndItsJvmIsNeverRoot() throws Exception {
        var client = command("knockknock");
        Lab.sudoFor("(root) " + client);
        var attempts = List.of(List.of(client, "-p", "1", LINE), List.of(client, "-p", "1", Lab.SERVER),
                List.of("sudo", "-n", client, "--help", LINE));
        long first = nextPid();
        var ground = prepareGround();
        var before = files(ground);
        int runs = 0, crashes = 0, knocks = 0, jvms = 0;
        for (int limit : limits(2600, 3200)) {
            for (var attempt : attempts) {
                var strace = List.of("strace", "-ff", "-qq", "-e", "signal=none", "-o", "/tmp/own/" + runs++,
                        "-e", "trace=execve,execveat,setuid,setreuid,setresuid");
                var result = lab.run(inside(ground, join(strace, limited(limit), asAlice(attempt))));
                crashes += isCrash(result) ? 1 : 0;
                knocks += result.exit() == 0 && attempt.contains(Lab.SERVER) ? 1 : 0;
                assertFalse(result.err().contains("Picked up"), result.err());
            }
        }
        // Not a sample: every java that any process became, right after that process had become alice for good.
        var uid = lab.must("id", "-u", "alice").strip();
        try (var traces = Files.list(Path.of("/proc/" + ground.pid() + "/root/tmp/own"))) {
            for (var trace : traces.toList()) {
                var calls = Files.readAllLines(trace);
                for (int i = 0; i < calls.size(); i++) {
                    if (calls.get(i).matches("execve(at)?\\(\"[^\"]*/java\".* = 0")) {
                        jvms++;
                        assertTrue(i > 0 && calls.get(i - 1).matches("setresuid\\(U, U, U\\) += 0".replace("U", uid)),
                                String.join("\n", calls));
                    }
                }
            }
        }
        assertTrue(jvms > runs / 2 && crashes > 0 && knocks > 0, jvms + " JVMs, " + crashes + " crashes, " + knocks);
        assertNamesWereRight(first);
        assertEquals(Set.of(), difference(before, files(ground)));
        assertEquals(1, lab.run(inside(ground, asAlice(List.of("sudo", "-n", "id")))).exit());
    }

    @ParameterizedTest
    @CsvSource({"knockknock-genprofile, 2600, 3200", "knockknock-check, 1600, 2300"})
    void aServersCommandThatCrashesAsRootWritesNoReport(String name, int from, int to) throws Exception {
        long first = nextPid();
        var ground = prepareGround();
        var before = files(ground);
        int runs = 0, crashes = 0;
        for (int limit : limits(from, to)) {
            var arguments = name.equals("knockknock-check") ? List.<String>of() : List.of("p" + ++runs, "" + runs);
            var result = lab.run(inside(ground, join(limited(limit),
                    List.of(command(name), "--dir", "/tmp/own/server"), arguments)));
            crashes += isCrash(result) ? 1 : 0;
            assertFalse(result.err().contains("Picked up"), result.err());
        }
        assertTrue(crashes > 0);
        assertNamesWereRight(first);
        var changed = difference(before, files(ground));
        // No reports; the directory of the firewall half's jar may be left, which is root's alone.
        changed.removeIf(file -> file.matches("/(run|tmp|tmp/hsperfdata_root.*|run/knockknock\\d+[^ ]*) .*"));
        assertEquals(Set.of(), changed);
    }

    // 2. Root's terminal

    /** A command on a new terminal, as the leader of its session; what is written to its stdin is typed there. */
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

    private static ProcessHandle child(ProcessHandle parent) {
        return parent.children().findFirst().orElseThrow();
    }

    private static void type(Process terminal, String keys) throws IOException {
        terminal.getOutputStream().write(keys.getBytes(StandardCharsets.US_ASCII));
        terminal.getOutputStream().flush();
    }

    private static void awaitText(Path file, String text) throws Exception {
        Lab.await(() -> text + " in " + Files.readString(file), () -> Files.readString(file).contains(text));
    }

    /** A field of /proc/PID/stat: 6 is the session, 7 the controlling terminal (proc_pid_stat(5)). */
    private static long stat(ProcessHandle process, int field) throws IOException {
        return Long.parseLong(proc(process.pid(), "stat").replaceFirst("(?s).*\\) ", "").split(" ")[field - 3]);
    }

    /** The daemon and its descendants: its firewall half and, if it follows a file, tail. */
    private static List<ProcessHandle> family(ProcessHandle daemon, boolean file) throws Exception {
        var family = Stream.concat(Stream.of(daemon), daemon.descendants()).toList();
        var names = new ArrayList<String>();
        for (var process : family) {
            names.add(proc(process.pid(), "comm"));
        }
        names.sort(null);
        assertEquals(file ? List.of("java", "java", "tail") : List.of("java", "java"), names);
        return family;
    }

    private static void assertWithoutTerminal(List<ProcessHandle> family) throws Exception {
        for (var process : family) {
            assertEquals(0, stat(process, 7), process.info().toString());
        }
    }

    private static void assertGone(List<ProcessHandle> family) throws Exception {
        Lab.await("all to end", () -> family.stream().noneMatch(ProcessHandle::isAlive));
        assertFalse(lab.mustOn("server", "nft", "list", "tables").contains("knockknock"));
        var running = lab.must("ps", "axww", "-o", "args");
        assertFalse(Stream.of("KnockknockFirewall", "tail -v").anyMatch(running::contains), running);
    }

    private static String emptyLog() throws Exception {
        lab.must("install", "-m", "640", "-g", "adm", "/dev/null", lab.kernLog.toString());
        return lab.kernLog.toString();
    }

    @Test
    void aDaemonInTheForegroundOfARootShellLeavesItsTerminalAndEndsOnCtrlC() throws Exception {
        var screen = lab.work.resolve("screen");
        var terminal = shellOnTerminal(screen);
        type(terminal, command("knockknock-daemon") + " --dir " + lab.dir + " --log " + emptyLog() + "\n");
        awaitText(screen, "ready:");
        var shell = child(terminal.toHandle());
        var family = family(child(shell), true);
        assertEquals(shell.pid(), stat(family.getFirst(), 6), "the shell's session");
        assertNotEquals(0, stat(shell, 7), "the shell has a terminal");
        assertWithoutTerminal(family);
        assertEquals(Path.of("/dev/null"), Files.readSymbolicLink(Path.of("/proc/" + family.getFirst().pid() + "/fd/0")));
        type(terminal, "\3");
        assertGone(family);
        type(terminal, "echo ended: $?\n");
        awaitText(screen, "ended: 130");
    }

    @Test
    void aDaemonThatLeadsTheTerminalsSessionSurvivesLeavingIt() throws Exception {
        var screen = lab.work.resolve("screen");
        var terminal = onTerminal(screen, command("knockknock-daemon"), "--dir", lab.dir.toString());
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
        var setting = Path.of("/proc/sys/dev/tty/legacy_tiocsti"); // since Linux 6.2, before it always on
        var before = Files.exists(setting) ? lab.must("cat", setting.toString()) : "";
        try {
            if (!before.isEmpty()) {
                Files.writeString(setting, "1");
            }
            var screen = lab.work.resolve("screen");
            type(shellOnTerminal(screen), "python3 " + code + "\n");
            for (var line : List.of("typing with a terminal: done", "typing without: errno 1", // EPERM
                    "taking it back: errno 1", "typing then: errno 1")) {
                awaitText(screen, line);
            }
        } finally {
            if (!before.isEmpty()) {
                Files.writeString(setting, before);
            }
        }
    }

    // 3, 4. Who holds what, and who reaches whom

    /** What every thread of a process holds: by thread, its status as far as this is about privileges. */
    private static Map<Path, Map<String, String>> held(long pid) throws IOException {
        var held = new HashMap<Path, Map<String, String>>();
        for (var thread : entries(pid, "task")) {
            try {
                held.put(thread, Files.readAllLines(thread.resolve("status")).stream()
                        .map(line -> line.split(":\\s*", 2))
                        .filter(pair -> pair[0].matches("Name|[UG]id|Groups|Cap...|NoNewPrivs"))
                        .collect(Collectors.toMap(pair -> pair[0], pair -> pair[1].strip())));
            } catch (IOException e) {
                assertFalse(Files.exists(thread), e.toString()); // it has ended since
            }
        }
        return held;
    }

    private static void assertHolds(String uid, String gid, String group, String capabilities,
            Map<String, String> thread) {
        assertEquals(String.join("\t", uid, uid, uid, uid), thread.get("Uid"), thread.toString());
        assertEquals(String.join("\t", gid, gid, gid, gid), thread.get("Gid"), thread.toString());
        assertEquals(group, thread.get("Groups"), thread.toString());
        for (var set : List.of("CapInh", "CapPrm", "CapEff", "CapAmb")) {
            assertEquals(capabilities, thread.get(set), thread.toString());
        }
    }

    private static List<Path> entries(long pid, String dir) throws IOException {
        try (var entries = Files.list(Path.of("/proc/" + pid + "/" + dir))) {
            return entries.toList();
        }
    }

    /** A process of a user who has these capabilities and nothing else. */
    private static List<String> as(String user, String capabilities) {
        return List.of("setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups",
                "--bounding-set=" + capabilities, "--inh-caps=" + capabilities, "--ambient-caps=" + capabilities,
                "env", "PATH=/usr/bin:/bin"); // root's may have a python3 that is only root's
    }

    /** What a user gets at in another process: its memory, environment, descriptors, or all of it. */
    private static Set<String> reached(List<String> user, long pid) throws Exception {
        var getFd = "import ctypes, os; exit(ctypes.CDLL(None).syscall(438, os.pidfd_open(PID), 0, 0) < 0)";
        var reached = new TreeSet<String>();
        for (var attack : List.of("dd count=0 if=/proc/PID/mem", "cat /proc/PID/environ", "head /proc/PID/maps",
                "readlink /proc/PID/fd/0", "timeout 1 strace -p PID", "python3 -c")) {
            var command = new ArrayList<>(List.of(attack.replace("PID", "" + pid).split(" ")));
            if (command.getFirst().equals("python3")) {
                command.add(getFd.replace("PID", "" + pid));
            }
            var result = lab.run(join(user, command));
            if (result.exit() == 0 || result.err().contains(" attached\n")) {
                reached.add(command.getFirst());
            }
        }
        return reached;
    }

    /** Shows that the attacks work, on a process of the same user that has nothing to protect it. */
    private static void assertReachesItsOwn(List<String> user) throws Exception {
        var sleep = lab.start(lab.work.resolve("sleep"), join(user, List.of("sleep", "infinity")));
        Lab.await("sleep", () -> proc(sleep.pid(), "comm").equals("sleep"));
        assertEquals(Set.of("dd", "cat", "head", "readlink", "timeout", "python3"), reached(user, sleep.pid()));
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void aReadyServerHoldsNothingOfRootsAndItsHalvesDoNotReachEachOther(boolean file) throws Exception {
        var marker = Files.writeString(lab.work.resolve("marker"), "").toRealPath();
        var start = List.of("setpriv", "--groups=0,1,2", "env", "SECRET=1", "bash", "-c",
                "exec 5< $0 9<> $0 57>> $0; exec \"$@\"", marker.toString());
        lab.startDaemon(join(start, lab.script("knockknock-daemon")), // the launcher would clear the environment
                file ? new String[] {"--log", emptyLog()} : new String[0]);
        var uid = lab.must("id", "-u", "knockknock").strip();
        var gid = lab.must("id", "-g", "knockknock").strip();
        var adm = lab.must("getent", "group", "adm").split(":")[2];
        var daemon = lab.daemon().toHandle();
        var family = family(daemon, file);
        ProcessHandle half = null;
        for (var process : family) {
            var name = proc(process.pid(), "cmdline").replace('\0', ' ');
            half = name.contains(" KnockknockFirewall ") ? process : half;
            boolean privileged = name.contains(" KnockknockFirewall ");
            for (var thread : held(process.pid()).values()) {
                assertHolds(uid, gid, file && !privileged ? adm : "", privileged ? NET_ADMIN : NONE, thread);
                assertTrue(!privileged || thread.get("CapBnd").equals(NET_ADMIN), thread.toString());
                assertTrue(!privileged || thread.get("NoNewPrivs").equals("1"), thread.toString());
            }
            if (!process.equals(daemon)) {
                var environment = Set.of(proc(process.pid(), "environ").split("\0"));
                assertEquals(privileged ? Set.of("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8") : Set.of(""),
                        environment, name);
                for (var descriptor : entries(process.pid(), "fd")) { // the daemon's own sudo and systemd close
                    assertNotEquals(marker, Files.readSymbolicLink(descriptor), name);
                }
            }
        }
        var sameUser = as("knockknock", "-all");
        assertReachesItsOwn(sameUser);
        assertEquals(Set.of(), reached(sameUser, half.pid()), "the same user, and so the daemon, at the half");
        assertEquals(Set.of(), reached(sameUser, daemon.pid()), "the same user at the daemon");
        assertEquals(Set.of(), reached(as("knockknock", "-all,+net_admin"), daemon.pid()), "the half at the daemon");
        lab.stopDaemon();
        assertGone(family);
    }

    @Test
    void nobodyButRootCanMakeTheHalfsClassPathAgain() throws Exception {
        lab.startDaemon(List.of(command("knockknock-daemon")));
        var arguments = proc(child(lab.daemon().toHandle()).pid(), "cmdline").split("\0");
        var classPath = arguments[List.of(arguments).indexOf("-cp") + 1];
        var directory = Path.of(classPath).getParent().toString();
        assertFalse(Files.exists(Path.of(directory)), classPath);
        for (var user : List.of(as("knockknock", "-all"), as("knockknock", "-all,+net_admin"), as("alice", "-all"))) {
            assertNotEquals(0, lab.run(join(user, List.of("mkdir", directory))).exit(), directory);
        }
        lab.must("mkdir", directory); // nothing else is in the way
        lab.must("rmdir", directory);
    }

    @Test
    void aThreadDumpDoesNotPassForAnswers() throws Exception {
        lab.startDaemon(List.of(command("knockknock-daemon")));
        var family = family(lab.daemon().toHandle(), false);
        lab.must("kill", "-QUIT", "" + child(family.getFirst()).pid());
        Lab.await("the dump", () -> lab.said("Full thread dump") == 1);
        var knock = lab.asAlice(List.of(command("knockknock"), "-p", "22", Lab.SERVER));
        knock.addAll(knock.indexOf("setpriv") + 1, List.of("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"));
        lab.must(knock);
        Lab.await("the knock", () -> lab.said("opened port 22") == 1);
        lab.stopDaemon();
        assertGone(family);
    }

    @Test
    void aReadyProxyHasNoCapabilityWhereItsOwnCodeRunsAndItsUserDoesNotReachIt() throws Exception {
        var out = lab.work.resolve("proxy");
        var command = lab.asAlice(List.of(command("knockknock-proxy"), "1080"));
        command.addAll(command.indexOf("setpriv") + 1,
                List.of("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"));
        var proxy = lab.start(out, command);
        awaitText(out, "ready:");
        // It serves somebody, so that it has all its threads.
        lab.start(lab.work.resolve("service"), Lab.on("client", "nc", "-lk", "127.0.0.1", "99"));
        Lab.await("the service", () -> !lab.mustOn("client", "ss", "-Hltn", "sport = :99").isEmpty());
        lab.start(lab.work.resolve("user"),
                Lab.on("client", "nc", "-X", "5", "-x", "127.0.0.1:1080", "127.0.0.1", "99"));
        Lab.await("the connection", () -> !lab.mustOn("client", "ss", "-Htn", "dport = :99").isEmpty());

        var uid = lab.must("id", "-u", "alice").strip();
        var gid = lab.must("id", "-g", "alice").strip();
        var own = new TreeSet<String>();
        held(proxy.pid()).forEach((path, thread) -> {
            // the first only waits for main's
            boolean hotSpots = HOTSPOTS.contains(thread.get("Name")) || path.endsWith("" + proxy.pid());
            boolean has = hotSpots && thread.get("CapPrm").equals(NET_RAW);
            assertHolds(uid, gid, "", has ? NET_RAW : NONE, thread);
            if (!hotSpots) {
                own.add(thread.get("Name"));
            }
        });
        assertTrue(own.containsAll(Set.of("java", "Thread-0", "Thread-1", "ForkJoinPool-1-")), own.toString());
        assertReachesItsOwn(as("alice", "-all"));
        assertEquals(Set.of(), reached(as("alice", "-all"), proxy.pid()));
        assertEquals(Set.of(), reached(as("alice", "-all,+net_raw"), proxy.pid()));
    }

    // 5. A full disk

    @Test
    void rsyslogKeepsAFloodOfForgedSynsOutOfItsFilesWhileKnocksAmongThemOpen() throws Exception {
        var config = Files.writeString(lab.work.resolve("rsyslog.conf"), """
                module(load="%s")
                kern.* DIR/before-drop-in
                $IncludeConfig %s
                *.*;auth,authpriv.none DIR/syslog
                kern.* DIR/kern.log
                """.formatted(System.getenv("KNOCK_KERNEL_INPUT"), DROP_IN).replace("DIR", lab.work.toString()));
        lab.start(lab.work.resolve("rsyslog.out"), List.of("/usr/sbin/rsyslogd", "-n", "-f", config.toString(),
                "-i", lab.work.resolve("rsyslog.pid").toString()));
        awaitMark("start");
        lab.profile("phone", 6514, Lab.SERVER6); // a port that no other test's lines are of
        lab.serve(22);
        lab.startDaemon(List.of(command("knockknock-daemon")));
        var flood = lab.start(lab.work.resolve("hping3"), Lab.on("client", "timeout", "60", "hping3", "-q", "-S",
                "--rand-source", "-p", "6514", "-i", "u2000", "-c", "2000", Lab.SERVER));
        do {
            long opened = lab.said("opened port 22");
            lab.must(lab.knockCommand("-p", "22", Lab.SERVER6));
            Lab.await("the knock", () -> lab.said("opened port 22") > opened);
            assertTrue(lab.connects(Lab.SERVER6, 22), lab.said());
        } while (flood.isAlive());
        assertFalse(lab.connects(Lab.SERVER6, 22));
        // What the kernel says of a process by a name like the rule's prefix is no knock, and stays.
        lab.run(List.of("python3", "-c", "import ctypes; ctypes.CDLL(None).prctl(15, b'knockknock: IN='); ctypes.string_at(0)"));
        awaitMark("end");

        long logged = lines("before-drop-in", "knockknock: IN=.* DPT=6514 ");
        assertTrue(logged > 1500, logged + " of 2000 reached rsyslog");
        for (var file : List.of("kern.log", "syslog")) {
            assertEquals(0, lines(file, "knockknock: IN=.* SYN URGP="));
            assertEquals(1, lines(file, "knockknock: IN=\\[\\d+\\]: segfault"));
        }
    }

    private long lines(String file, String pattern) throws IOException {
        try (var lines = Files.lines(lab.work.resolve(file), StandardCharsets.ISO_8859_1)) {
            return lines.filter(Pattern.compile(pattern).asPredicate()).count();
        }
    }

    /** Waits until the log files have something of now, and so all that came before it. */
    private void awaitMark(String name) throws Exception {
        var mark = name + System.nanoTime() + ": ";
        lab.mustOn("server", "iptables", "-I", "INPUT", "-p", "udp", "--dport", "9", "-j", "LOG", "--log-prefix", mark);
        Lab.await(name, () -> {
            lab.mustOn("client", "bash", "-c", "echo > /dev/udp/" + Lab.SERVER + "/9");
            return Files.exists(lab.kernLog) && lines("kern.log", mark) > 0 && lines("syslog", mark) > 0;
        });
    }
}
