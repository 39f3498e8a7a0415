import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/** The commands as the real install.sh installs them. */
final class Install {
    private static final String DROP_IN = "/etc/rsyslog.d/10-knockknock.conf";
    private static Optional<Path> shared = Optional.empty();

    private Install() {}

    /** Installs them below the lab's directory; returns the directory that they are in. */
    static Path fresh(Lab lab, String jdk) throws Exception {
        return into(lab, lab.work.resolve("prefix"), jdk);
    }

    static Path fresh(Lab lab) throws Exception {
        return fresh(lab, System.getProperty("java.home"));
    }

    /**
     * Those that were installed once for all labs. What install.sh makes beside them is gone again,
     * but for its filter for rsyslog, which lies beside their directory.
     */
    static Path shared(Lab lab) throws Exception {
        if (shared.isEmpty()) {
            var prefix = Path.of("/srv/knockknock"); // tests/run sees to it that it goes away
            boolean there = lab.run(List.of("getent", "passwd", "knockknock")).exit() == 0;
            into(lab, prefix, System.getProperty("java.home"));
            lab.must("sh", "-ec", "mv " + DROP_IN + " " + prefix + (there ? ""
                    : "; userdel knockknock"));
            shared = Optional.of(prefix.resolve("bin"));
        }
        return shared.get();
    }

    private static Path into(Lab lab, Path prefix, String jdk) throws Exception {
        lab.must("env", "PREFIX=" + prefix, "JAVA_HOME=" + jdk, "PATH="
                + Path.of(System.getenv("KNOCK_JBANG")).getParent() + ":" + System.getenv("PATH"),
                "./install.sh");
        return prefix.resolve("bin");
    }
}
