//DEPS info.picocli:picocli:4.7.7

import java.io.IOException;
import java.util.concurrent.Callable;

import picocli.CommandLine;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.IVersionProvider;
import picocli.CommandLine.TypeConversionException;

/** What every command does alike: an error is one line on stderr; the exit code is 0 done, 1 could not, 2 bad usage. */
final class Cli {
    private Cli() {}

    /** Something that the user can mend: the message says what is wrong and what to do. */
    static final class Failure extends RuntimeException {
        Failure(String message) {
            super(message);
        }
    }

    static final class Version implements IVersionProvider {
        @Override
        public String[] getVersion() {
            return new String[] {"${COMMAND-NAME} 1.0.0"};
        }
    }

    /** A port in plain decimal, 1 to 65535. */
    static final class Port implements ITypeConverter<Integer> {
        @Override
        public Integer convert(String text) {
            if (!text.matches("[1-9][0-9]{0,4}") || Integer.parseInt(text) > 65535) {
                throw new TypeConversionException("'" + text + "' is not a port: give a number from 1 to 65535");
            }
            return Integer.valueOf(text);
        }
    }

    /** Runs {@code command} and ends the process with its exit code. */
    static void run(Callable<Integer> command, String[] args) {
        System.exit(new CommandLine(command)
                .setExpandAtFiles(false) // '@file' would be read, and perhaps shown, as root
                .setParameterExceptionHandler((e, _) -> {
                    complain(e.getMessage() + "; see " + e.getCommandLine().getCommandName() + " --help");
                    return 2;
                })
                .setExecutionExceptionHandler((e, _, _) -> {
                    switch (e) {
                        case Failure failure -> complain(failure.getMessage());
                        case IOException io -> complain(io.getClass().getSimpleName() + ": " + io.getMessage());
                        default -> throw e;
                    }
                    return 1;
                })
                .execute(args));
    }

    /** Writes one error line. */
    static void complain(String message) {
        System.err.println("knockknock: " + message.replace("\n", "; "));
    }
}
