//DEPS info.picocli:picocli:4.7.7
// Every JVM: foreign functions without a warning, the collector that takes the least memory, no
// file and no socket for other tools; and if it crashes, no file with its arguments, as whoever
// started it could choose where that goes. lib/server/Privileges.java says the same of the half.
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC -XX:-UsePerfData
//RUNTIME_OPTIONS -XX:+DisableAttachMechanism
//RUNTIME_OPTIONS -XX:+ErrorFileToStderr -XX:-CreateCoredumpOnCrash -XX:-DumpReplayDataOnError

import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.InvalidPathException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import java.util.function.Function;
import java.util.stream.Stream;

import picocli.CommandLine;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Model.PositionalParamSpec;
import picocli.CommandLine.Model.UsageMessageSpec;
import picocli.CommandLine.TypeConversionException;

/**
 * What commands share: an error is one line on stderr; exit 0 done, 1 could not, 2 bad usage. Their
 * options are built, not annotated: picocli would need 35 ms to read annotations at every start.
 */
final class Cli {
    static {
        Thread.setDefaultUncaughtExceptionHandler((_, e) -> complain(e)); // main's ends in exit 1
    }

    private Cli() {}

    /**
     * A command without options yet, and its --help: what it does, what else to know, and lines
     * "CODE:MEANING".
     */
    static CommandSpec command(String name, Callable<Integer> action, String purpose, String more,
            String... exitCodes) {
        var command = CommandSpec.wrapWithoutInspection(action).name(name)
                .version(name + " 2.0.0");
        command.usageMessage().sortOptions(false).description(purpose, "")
                .exitCodeListHeading("Exit codes:%n")
                .exitCodeList(UsageMessageSpec.keyValuesMap(exitCodes)).footer("", more);
        return command;
    }

    /** An option without a value. */
    static OptionSpec flag(String name, String description) {
        return OptionSpec.builder(name).arity("0").description(description).build();
    }

    /** An option with a value, which {@code reader} understands or refuses with a Failure. */
    static <T> OptionSpec option(String name, String label, Function<String, T> reader,
            String description) {
        return OptionSpec.builder(name.split(" ")).paramLabel(label).type(Object.class)
                .converters(converter(reader)).description(description).build();
    }

    /** An argument: the {@code index}th, which may be missing if {@code arity} is "0..1". */
    static <T> PositionalParamSpec argument(int index, String arity, String label,
            Function<String, T> reader, String description) {
        return PositionalParamSpec.builder().index("" + index).arity(arity)
                .required(!arity.startsWith("0")).paramLabel(label).type(Object.class)
                .converters(converter(reader)).description(description).build();
    }

    private static <T> ITypeConverter<T> converter(Function<String, T> reader) {
        return text -> {
            try {
                return reader.apply(text);
            } catch (Failure e) {
                throw new TypeConversionException(e.getMessage());
            }
        };
    }

    /** Reads a file's name: a whole one, as the installed commands run in the directory /. */
    static Path file(String text) {
        if (!text.startsWith("/")) {
            throw new Failure("'" + text + "' does not begin with /: give the whole path");
        }
        if (text.matches("(?s).*[?\uFFFD].*") // what the JDK makes of bytes that it cannot read
                && !System.getProperty("sun.jnu.encoding").equals("UTF-8")) {
            throw new Failure("'" + text + "' is no name in this locale: set LC_ALL=C.UTF-8");
        }
        return Path.of(text);
    }

    /** Runs {@code command} and ends the process with its exit code. */
    static void run(CommandSpec command, String[] args) {
        // Not picocli's own, which are read from annotations; here, to be last in --help.
        command.addOption(OptionSpec.builder("-h", "--help").usageHelp(true)
                .description("show this help and exit").build());
        command.addOption(OptionSpec.builder("-V", "--version").versionHelp(true)
                .description("print the version and exit").build());
        System.exit(new CommandLine(command)
                .setExpandAtFiles(false) // or '@file' would be read, and perhaps shown, as root
                .setParameterExceptionHandler((e, _) -> {
                    complain(e.getMessage() + "; see " + command.name() + " --help");
                    return 2;
                })
                .setExecutionExceptionHandler((e, _, _) -> {
                    complain(e);
                    return 1;
                })
                .execute(args));
    }

    /** Writes one line about what went wrong, foreseen or not. */
    static void complain(Throwable e) {
        switch (e) {
            case Failure failure -> complain(failure.getMessage());
            case IOException io -> complain(reason(io));
            case InvalidPathException path -> complain("this locale has no name for the file "
                    + path.getInput() + ": set LC_ALL=C.UTF-8");
            default -> {
                var cause = e instanceof CommandLine.ExecutionException && e.getCause() != null
                        ? e.getCause() : e; // picocli wraps an Error
                var ours = Stream.of(cause.getStackTrace())
                        .filter(frame -> !frame.getClassName().contains(".")).findFirst();
                complain("unexpected: " + cause + ours.map(frame -> " at " + frame).orElse("")
                        + ": please report this line, and what the same prints after"
                        + " 'jbang -Dknockknock.trace'");
                if (System.getProperty("knockknock.trace") != null) {
                    cause.printStackTrace();
                }
            }
        }
    }

    /** What went wrong, in words: the messages of some exceptions are just the name of a file. */
    static String reason(IOException e) {
        return switch (e) {
            case NoSuchFileException missing -> missing.getFile() + " does not exist";
            case AccessDeniedException denied -> denied.getFile() + ": permission denied";
            case FileSystemException other -> "cannot use " + other.getMessage();
            default -> e.getMessage() == null ? e.toString() : e.getMessage();
        };
    }

    /** Writes one line to stderr. */
    static void complain(String message) {
        System.err.println("knockknock: " + message.replace("\n", "; "));
    }
}
