import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;

/** How the daemon gives up what it was started with. */
final class Privileges {
    private static final int O_RDONLY = 0, O_RDWR = 2, TIOCNOTTY = 0x5422, SIGHUP = 1, SIG_IGN = 1;

    private Privileges() {}

    /**
     * Leaves the controlling terminal: nothing can be typed into its shell; Ctrl-C still works.
     * Standard input becomes /dev/null, so that what is typed there is not read either.
     */
    static void leaveTerminal() {
        try (var arena = Arena.ofConfined()) {
            long none = Sys.must("open", arena.allocateFrom("/dev/null").address(), O_RDONLY);
            Sys.must("dup2", none, 0);
            Sys.must("close", none);
            int tty = (int) Libc.call("open", arena.allocateFrom("/dev/tty").address(), O_RDWR);
            if (tty >= 0) {
                long handler = Libc.call("signal", SIGHUP, SIG_IGN); // sent to a session's leader
                Sys.must("ioctl", tty, TIOCNOTTY);
                Libc.call("signal", SIGHUP, handler);
                Sys.must("close", tty);
            }
        }
    }

    /** Closes what the caller had open, all but the standard streams and what the JVM runs from. */
    static void closeInherited() throws IOException {
        var classPath = System.getProperty("java.class.path");
        var own = Stream.of((System.getProperty("java.home") + "/lib:" + classPath).split(":"))
                .map(path -> Path.of(path).toAbsolutePath().getParent()).toList();
        List<Path> open;
        try (var entries = Files.list(Path.of("/proc/self/fd"))) {
            open = entries.toList();
        }
        for (var entry : open) {
            int fd = Integer.parseInt(entry.getFileName().toString());
            if (fd > 2 && Files.isSymbolicLink(entry)) {
                var file = Files.readSymbolicLink(entry);
                boolean random = file.toString().matches("/dev/u?random");
                if (!random && own.stream().noneMatch(file::startsWith)) {
                    Libc.call("close", fd);
                }
            }
        }
    }

    /**
     * Becomes {@code uid} and {@code gid} with no groups but {@code groups}, for good: glibc
     * changes every thread (nptl(7)), and the kernel clears the capabilities of each
     * (capabilities(7)).
     */
    static void dropTo(int uid, int gid, int... groups) {
        try (var arena = Arena.ofConfined()) {
            var list = arena.allocateFrom(ValueLayout.JAVA_INT, groups);
            Sys.must("setgroups", groups.length, list.address());
            Sys.must("setgid", gid);
            Sys.must("setuid", uid);
        }
        if ((int) Libc.call("setuid", 0) != -1) {
            throw new Failure("could become root again after giving it up");
        }
        Sys.forbidTracing();
    }
}
