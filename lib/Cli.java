//DEPS info.picocli:picocli:4.7.7

import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.InvalidPathException;
import java.nio.file.NoSuchFileException;
import java.util.concurrent.Callable;
import java.util.stream.Stream;

import picocli.CommandLine;
import picocli.CommandLine.IExecutionExceptionHandler;
import picocli.CommandLine.IParameterExceptionHandler;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Model.UsageMessageSpec;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.TypeConversionException;

/**
 * What commands share: an error is one line on stderr; exit 0 done, 1 could not, 2 bad usage. Their
 * options are built, not annotated: picocli would need 35 ms to read annotations at every start.
 */
final class Cli {
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

    /** A port in plain decimal, 1 to 65535. */
    static final class Port implements ITypeConverter<Integer> {
        @Override
        public Integer convert(String text) {
            try {
                return Ports.number(text);
            } catch (Failure e) {
                throw new TypeConversionException(e.getMessage());
            }
        }
    }

    /** A counter in plain decimal, 0 to 2^32 - 1. */
    static final class CounterValue implements ITypeConverter<Long> {
        @Override
        public Long convert(String text) {
            if (!text.matches("[0-9]{1,10}") || Long.parseLong(text) > Counter.LAST) {
                throw new TypeConversionException("'" + text + "' is not a counter: give a number"
                        + " from 0 to " + Counter.LAST);
            }
            return Long.valueOf(text);
        }
    }

    /**
     * Prints an error as one line, and says what to exit with. A class, as two lambdas would take
     * 2 ms at every start.
     */
    private static final class Complaint
            implements IParameterExceptionHandler, IExecutionExceptionHandler {
        @Override
        public int handleParseException(ParameterException e, String[] args) {
            var name = e.getCommandLine().getCommandName();
            complain(e.getMessage() + "; see " + name + " --help");
            return 2;
        }

        @Override
        public int handleExecutionException(Exception e, CommandLine command, ParseResult given) {
            complain(e);
            return 1;
        }
    }

    /** Runs {@code command} and ends the process with its exit code. */
    static void run(CommandSpec command, String[] args) {
        // Not picocli's own, which are read from annotations; here, to be last in --help.
        command.addOption(OptionSpec.builder("-h", "--help").usageHelp(true)
                .description("Show this help message and exit.").build());
        command.addOption(OptionSpec.builder("-V", "--version").versionHelp(true)
                .description("Print version information and exit.").build());
        Thread.setDefaultUncaughtExceptionHandler((_, e) -> complain(e)); // main's ends in exit 1
        try {
            restartInUtf8(args);
        } catch (IOException | Failure e) {
            complain(e);
            System.exit(1);
        }
        var complaint = new Complaint();
        System.exit(new CommandLine(command)
                .setExpandAtFiles(false) // or '@file' would be read, and perhaps shown, as root
                .setParameterExceptionHandler(complaint)
                .setExecutionExceptionHandler(complaint)
                .execute(args));
    }

    /** In a POSIX locale, as cron's, the JDK reads no byte of a name that is not ASCII. */
    private static void restartInUtf8(String[] args) throws IOException {
        var names = String.join("", args) + System.getProperty("user.dir")
                + System.getProperty("user.home");
        if (names.matches("(?s).*[?\uFFFD].*") && !"C.UTF-8".equals(System.getenv("LC_ALL"))
                && !System.getProperty("sun.jnu.encoding").equals("UTF-8")) {
            throw Sudo.withUtf8();
        }
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

    /** Writes one error line. */
    static void complain(String message) {
        System.err.println("knockknock: " + message.replace("\n", "; "));
    }
}
