// Certificates for tests, made with the openssl command (Debian's ca-certificates brings it).
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "./harness.ts";

export interface Pair {
  cert: string;
  key: string;
}

const openssl = (args: string[]) => execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });

/** An authority in a folder of its own, which signs what is asked of it. */
export class Authority {
  readonly folder = temporaryFolder();
  readonly file = join(this.folder, "ca.pem");
  private readonly key = join(this.folder, "ca.key");
  private serial = 1;

  constructor(name = "test authority") {
    mkdirSync(this.folder, { recursive: true });
    const extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
    openssl(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", `/CN=${name}`, ...extensions, "-keyout", this.key, "-out", this.file]);
  }

  get pem(): string {
    return readFileSync(this.file, "utf8");
  }

  /** For localhost and 127.0.0.1; as files `<name>.pem` and `<name>.key` of the authority's folder, or elsewhere. */
  sign(name: string, options: { days?: number; rsa?: boolean; to?: Pair } = {}): Pair {
    const pair = options.to ?? { cert: join(this.folder, `${name}.pem`), key: join(this.folder, `${name}.key`) };
    const request = join(this.folder, "request.pem");
    const kind = options.rsa === true ? ["rsa:2048"] : ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    openssl(["req", "-newkey", ...kind, "-nodes", "-subj", `/CN=${name}`, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", pair.key, "-out", request]);
    openssl(["x509", "-req", "-in", request, "-CA", this.file, "-CAkey", this.key, "-set_serial", String(this.serial++), "-days", String(options.days ?? 30), "-copy_extensions", "copy", "-out", pair.cert]);
    chmodSync(pair.key, 0o600);
    return pair;
  }
}

/** Settings of a server that shows this pair. */
export const serving = (pair: Pair): Record<string, string> => ({ KALAMDB_TLS_CERTIFICATE_FILE: pair.cert, KALAMDB_TLS_KEY_FILE: pair.key });
