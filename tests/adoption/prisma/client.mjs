// A bot's statements, as the real Prisma client sends them to schema profiles_compat. Prints what became of each, as JSON.
import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "@prisma/client";

const adapter = new PrismaPg(JSON.parse(process.env.CONNECTION), { schema: "profiles_compat" });
const prisma = new PrismaClient({ adapter });
const users = prisma.user_profiles;
const results = {};

async function attempt(name, call) {
  try {
    results[name] = { value: await call() };
  } catch (error) {
    results[name] = { code: error.code ?? null, message: String(error.message) };
  }
}

const times = { first_seen_at: 1700000000n, last_interaction_at: 1700000001n, created_at: 1700000002n };
const ada = { user_id: "334567890123456789", username: "Ada", ...times };
const bob = { user_id: "334567890123456790", username: "Robert", ...times };
const cleo = { user_id: "334567890123456791", username: "Cleo", ...times };
const one_more = { message_count: { increment: 1 } };

await attempt("create", () => users.create({ data: ada }));
await attempt("findUnique", () => users.findUnique({ where: { user_id: ada.user_id } }));
await attempt("update", () => users.update({ where: { user_id: ada.user_id }, data: { message_count: { increment: 2 } } }));
await attempt("createMany", () => users.createMany({ data: [bob, cleo], skipDuplicates: true }));
await attempt("createMany again", () => users.createMany({ data: [bob], skipDuplicates: true }));
await attempt("findMany", () => users.findMany({ where: { user_id: { startsWith: "3345" } }, orderBy: { user_id: "asc" } }));
await attempt("upsert", () => users.upsert({ where: { user_id: ada.user_id }, create: ada, update: one_more }));
await attempt("upsert with a second condition", () =>
  users.upsert({ where: { user_id: ada.user_id, NOT: { id: "" } }, create: ada, update: one_more }));
const dora = { ...ada, user_id: "334567890123456792", username: "Dora" };
await attempt("upsert of a new one with a second condition", () =>
  users.upsert({ where: { user_id: dora.user_id, NOT: { id: "" } }, create: dora, update: one_more }));
await attempt("delete", () => users.delete({ where: { user_id: ada.user_id } }));
await attempt("findUnique of nobody", () => users.findUnique({ where: { user_id: ada.user_id } }));

console.log(JSON.stringify(results, (_, value) => (typeof value === "bigint" ? Number(value) : value)));
await prisma.$disconnect();
